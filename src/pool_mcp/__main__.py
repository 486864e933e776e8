"""``pool-mcp``, ``python -m pool_mcp`` and a bundle's entry point.

The status line is written several times a minute and must not wait for the rest of the command line to be loaded.
"""

import _signal  # type: ignore[import-not-found]
import sys

# Nothing has begun, so Ctrl-C ends the process at once; an exception in the middle of an import would be a traceback.
# To import "signal" itself, which is built on this one, takes some milliseconds in which that could happen.
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def main() -> None:
    """Write the status line, or run the command line."""
    if sys.argv[1:] == ["statusline"]:
        import os
        import time

        from pool_mcp import statusline

        statusline.main(os.environ, time.time_ns() // 1_000_000)
    from pool_mcp.cli import main

    if sys.argv[1:] not in ([], ["serve"]):  # a server goes on loading, and then listens for signals itself
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    main.main()


if __name__ == "__main__":
    main()
