"""The command `btfeed`, also as `python -m btfeed`.

SIGHUP asks a server to reload, and must not end one that is starting. So it is held before anything slow is imported.
SIGINT ends what is being imported without a traceback. It ends `btfeed flow` so at any time: that imports until it reads,
and out of a query no exception comes as it is. What has to be removed is, as after SIGTERM (signals.py).
"""

import sys

from btfeed import early


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] in (["serve"], ["receive"], ["deliver"]):
        early.hold("--supervise" in sys.argv or sys.argv[1] == "receive")
    interruptible = early.end_on_interrupt()
    from btfeed.commands.main import cli

    if interruptible and sys.argv[1:2] != ["flow"]:
        early.raise_on_interrupt()
    cli()


if __name__ == "__main__":
    main()
