"""The command line as `python -m dyncompress.cli`."""

import sys

from dyncompress.cli.commands import entry

if __name__ == "__main__":
    sys.exit(entry())
