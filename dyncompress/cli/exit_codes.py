"""The exit code of a command, and one sentence for every exception."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dyncompress.errors import DyncompressError
from dyncompress.models.user_code import last_line, of_user, place_of_user, text_of

DONE, REFUSED, USAGE, BUG, MEMORY, NO_ANSWER, INTERRUPTED = 0, 1, 2, 70, 71, 74, 130
MEANINGS: Mapping[int, str] = {
    DONE: "done",
    REFUSED: "the target refuses the file",
    USAGE: "usage or unreadable input",
    3: "the budget can't be met",
    4: "not certified",
    5: "file altered",
    6: "outputs differ",
    BUG: "an error of dyncompress itself",
    MEMORY: "not enough memory",
    NO_ANSWER: "the answer can't be written to standard output",
    INTERRUPTED: "interrupted",
}
LONGEST = 1200  # characters of a message
TRACEBACK = "DYNCOMPRESS_TRACEBACK"  # environment variable: 1 shows errors with their traceback


def table() -> str:
    """All exit codes with their meanings, in one line.

    Example:
        >>> table()[:45]
        '0 done, 1 the target refuses the file, 2 usag'
    """
    return ", ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items())


def code_and_sentence(error: BaseException) -> tuple[int, str]:
    """The exit code for an exception, and one sentence about it."""
    if isinstance(error, DyncompressError):
        return error.exit_code, one_sentence(_with_place(error))
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; the files of a run are written all together or not at all."
    if (message := of_user(error)) is not None:
        return USAGE, one_sentence(message)
    if _is_out_of_memory(error):
        return MEMORY, "there is not enough memory; give fewer or smaller examples, or a smaller model."
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return USAGE, one_sentence(f"{place}{error.strerror.lower()}.")
    if isinstance(error, ImportError) and not (error.name or "").startswith("dyncompress"):
        package = (error.name or "").partition(".")[0]
        what = f"the package '{package}'" if package else "a package"
        return USAGE, one_sentence(
            f"{what} can't be imported here ({text_of(error).removesuffix('.')}); install dyncompress again with all it needs."
        )
    kind, text = type(error).__name__, text_of(error).removesuffix(".")
    where = last_line(error.__traceback__)
    return BUG, one_sentence(
        f"this is an error of dyncompress itself: {kind}{f' at {where}' if where else ''}{f' ({text})' if text else ''}; please "
        f"report it with what the same command prints under {TRACEBACK}=1."
    )


def _with_place(error: DyncompressError) -> str:
    """The error's text; if an exception in the user's code caused it, with the line of that code."""
    text, cause = str(error), error.__cause__
    place = "" if cause is None else place_of_user(cause)
    if cause is None or not place or place in text:
        return text
    return f"{text.removesuffix('.')} ({type(cause).__name__} at {place})."


def one_sentence(text: str) -> str:
    """The text as one line of printable characters that ends with a punctuation mark."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    if len(line) > LONGEST:  # a long value: the beginning says what it is, the end what to do
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return line if line.endswith((".", "?", "!")) else f"{line}."


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or an accelerator ran out of memory; torch has its own exceptions for that."""
    text = text_of(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text))
