"""The command line: what a person types, what is refused before any work, and what is printed."""

from dyncompress.cli.commands import entry as entry
from dyncompress.cli.commands import main as main
