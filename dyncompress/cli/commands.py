"""Run one command: print its result to standard output; messages and progress go to standard error."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from dyncompress import __version__
from dyncompress.cli import comparison_command, file_commands, list_commands, model_commands, streams
from dyncompress.cli.arguments import parse, parser
from dyncompress.cli.exit_codes import DONE, TRACEBACK, code_and_sentence
from dyncompress.cli.progress_bars import on_standard_error
from dyncompress.cli.results import Result
from dyncompress.reports import plain_json
from dyncompress.types.progress import SILENT, Progress


def entry() -> int:
    """Run the command of the process with its standard streams set up, and return the exit code."""
    streams.set_up()
    code = main()
    streams.flush()
    return code


def main(words: Sequence[str] | None = None) -> int:
    """Run one command: print its result to standard output, or one sentence about an error to standard error.

    Args:
        words: the arguments; None: those of the process.

    Returns:
        The exit code: 0 done, 1 the target refuses the file, 2 usage or unreadable input (an error in the user's own code
        included), 3 the budget can't be met, 4 not certified or promise not kept, 5 file altered, 6 outputs differ, 70 an error
        of dyncompress itself, 71 not enough memory, 74 the answer can't be written to standard output, 130 interrupted (Ctrl-C).
    """
    try:
        with redirect_stdout(sys.stderr):  # what the user's code and libraries print isn't the result
            text, done = _output(words)
    except BaseException as error:
        code, sentence = code_and_sentence(error)
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            streams.print_message("".join(traceback.format_exception(error)).rstrip())
        streams.print_message(f"dyncompress: {sentence}")
        return code
    return streams.print_result(text) or done


def _output(words: Sequence[str] | None) -> tuple[str, int]:
    """Run a command and return the text for standard output, and the exit code."""
    help_text = io.StringIO()
    try:
        with redirect_stdout(help_text):
            args = parse(words)
    except SystemExit:  # argparse raises it after --help
        return help_text.getvalue().rstrip("\n"), DONE
    if args.version or args.command is None:
        return f"dyncompress {__version__}" if args.version else parser().format_help(), DONE
    result = COMMANDS[args.command](args, SILENT if args.quiet else on_standard_error())
    return json.dumps(plain_json(result.data), allow_nan=False) if args.json else result.text, result.code


COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], Result]] = {
    "demo": model_commands.demo,
    "compress": model_commands.compress,
    "measure": model_commands.measure,
    "probe": model_commands.probe,
    "rank": model_commands.rank,
    "plan": model_commands.plan,
    "pareto": model_commands.pareto,
    "compare": comparison_command.compare,
    "verify": file_commands.verify,
    "bench": file_commands.bench,
    "pack": file_commands.pack,
    "unpack": file_commands.unpack,
    "convert": file_commands.convert,
    "recipes": list_commands.recipes,
    "targets": list_commands.targets,
}
