"""The process's streams: standard output for the result alone, standard error for messages; either may be closed or full."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import TextIO

from dyncompress.cli.exit_codes import DONE, NO_ANSWER

# Modules whose warnings aren't meant for our users.
LIBRARIES = r"(torch|torchvision|onnx|onnx_ir|onnxscript|onnxruntime|torch_pruning|copyreg)(\.|$)"


def set_up() -> None:
    """Reserve standard output for the result; what native libraries print there goes to standard error.

    HiGHS, for example, sometimes prints a line, which would break the output of `--json`. Warnings and log lines of torch and
    onnx are suppressed; those of the user's code are shown.
    """
    closed = _is_closed(1)
    for number in (0, 1, 2):  # else the next file that is opened would become a standard stream
        if _is_closed(number):
            _redirect_to_null(number)
    if not closed:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=encoding, errors="backslashreplace")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore", module=LIBRARIES)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("torch", "onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


def print_result(text: str) -> int:
    """Print the result of the command to standard output.

    Returns:
        The exit code: done, or the result can't be written. A reader that stops early (`| head`) is no error.
    """
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        _print(text, sys.stdout)
    except BrokenPipeError:
        _abandon(sys.stdout)
    except (OSError, ValueError) as error:  # a stream that Python has closed raises a ValueError
        _abandon(sys.stdout)
        reason = (getattr(error, "strerror", None) or str(error)).lower().removesuffix(".")
        print_message(f"dyncompress: the command is done, and its answer can't be written to standard output ({reason}).")
        return NO_ANSWER
    return DONE


def print_message(text: str) -> None:
    """Print a line to standard error; if that is closed or full, do nothing."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            _print(text, sys.stderr)


def flush() -> None:
    """Flush both streams; without this, Python would end with exit code 120 if one of them can't be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _abandon(stream)
    sys.stdout = sys.stderr  # what the user's code prints at exit isn't the result either


def _print(text: str, stream: TextIO) -> None:
    """Write a line, with escapes for characters that the stream's encoding doesn't have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding, "replace") + "\n")
    stream.flush()


def _abandon(stream: TextIO | None) -> None:
    """Discard everything that is written or flushed to the stream from now on."""
    with suppress(OSError, ValueError):
        if stream is not None:
            _redirect_to_null(stream.fileno())


def _redirect_to_null(number: int) -> None:
    """Let a file descriptor refer to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def _is_closed(number: int) -> bool:
    """Whether a file descriptor is closed."""
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
