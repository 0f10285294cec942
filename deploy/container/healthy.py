"""Whether the btfeed in this container is alive, for HEALTHCHECK: the exit status, 0 or 1.

BTFEED_ADMIN in the environment is the address of the admin listener, if not 127.0.0.1:4322.
"""

import os
import sys
import urllib.request

ADDRESS = os.environ.get("BTFEED_ADMIN", "127.0.0.1:4322")

try:
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    directly.open(f"http://{ADDRESS}/healthz", timeout=4).close()
except OSError as error:
    sys.exit(f"{ADDRESS}: {error}")
