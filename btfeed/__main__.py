"""The command `btfeed`, also as `python -m btfeed`.

SIGHUP asks a server to reload, and must not end one that is starting. So it is held before anything slow is imported.
"""

import sys

from btfeed import early


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] in (["serve"], ["receive"], ["deliver"]):
        early.hold("--supervise" in sys.argv or sys.argv[1] == "receive")
    from btfeed.commands.main import cli

    cli()


if __name__ == "__main__":
    main()
