"""The command `dyncompress`, also as `python -m dyncompress`; Ctrl-C ends it with one line, even during its imports."""

from __future__ import annotations

import sys


def entry() -> int:
    """Import the command line, run it, and return its exit code."""
    try:
        from dyncompress.cli import entry as run

        return run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("dyncompress: interrupted.\n")
        return 130


if __name__ == "__main__":
    sys.exit(entry())
