"""The command line: its arguments, the checks before any work begins, and what is printed."""

from dyncompress.cli.commands import entry as entry
from dyncompress.cli.commands import main as main
