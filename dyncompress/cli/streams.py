"""The process's streams: standard output for the answer alone, standard error for messages, each possibly closed or full."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import TextIO

from dyncompress.cli.exit_codes import DONE, NO_ANSWER

CHATTY = r"(torch|torchvision|onnx|onnx_ir|onnxscript|onnxruntime|torch_pruning|copyreg)(\.|$)"  # they warn their own users


def separate() -> None:
    """Keep standard output for the answer; what native libraries print there goes where errors go.

    HiGHS, for one, prints a line now and then, and `--json` is read by machines. Warnings and log lines that torch and onnx have
    for their own users are silenced; those of the user's code are shown.
    """
    closed = _closed(1)
    for number in (0, 1, 2):  # a file that is opened later must not become a standard stream
        if _closed(number):
            _to_nowhere(number)
    if not closed:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=encoding, errors="backslashreplace")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore", module=CHATTY)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("torch", "onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


def answer(text: str) -> int:
    """Print the answer.

    Returns:
        the exit code: done, or that the answer can't be written. Whoever has read enough (`| head`) has the answer.
    """
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        _print(text, sys.stdout)
    except BrokenPipeError:
        _give_up(sys.stdout)
    except (OSError, ValueError) as error:  # a stream that Python has closed raises a ValueError
        _give_up(sys.stdout)
        reason = (getattr(error, "strerror", None) or str(error)).lower().removesuffix(".")
        tell(f"dyncompress: the command is done, and its answer can't be written to standard output ({reason}).")
        return NO_ANSWER
    return DONE


def tell(text: str) -> None:
    """Print a line to standard error, if there is any: a message that nobody can read must not stop the command."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            _print(text, sys.stderr)


def flushed(code: int) -> int:
    """The exit code itself, after the last of both streams is written: Python would end with 120 where it can't be."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _give_up(stream)
    sys.stdout = sys.stderr  # what the user's code prints at the very end isn't the answer either
    return code


def _print(text: str, stream: TextIO) -> None:
    """A line, with escapes for what the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding, "replace") + "\n")
    stream.flush()


def _give_up(stream: TextIO | None) -> None:
    """Let nothing be flushed there any more."""
    with suppress(OSError, ValueError):
        if stream is not None:
            _to_nowhere(stream.fileno())


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
