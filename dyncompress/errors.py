"""The error classes. Each names what the user can do about it; the message says where, what, and what to change."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class DyncompressError(Exception):
    """Base of every error this library raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 2


class InvalidRequest(DyncompressError):  # noqa: N818  (the field's reading: "that request is invalid")
    """An argument is wrong; change the argument."""


class Unsupported(DyncompressError):  # noqa: N818
    """The model or the target can't do this; the message says what can."""


class Infeasible(DyncompressError):  # noqa: N818
    """No plan fits the budget; loosen the budget or allow more choices."""

    exit_code = 3


class NotCertified(DyncompressError):  # noqa: N818
    """The promise failed on the held-out data; nothing was written."""

    exit_code = 4


class Altered(DyncompressError):  # noqa: N818
    """A digest or a seal is broken: the file isn't the one that was certified."""

    exit_code = 5


class Differs(DyncompressError):  # noqa: N818
    """The outputs of two forms of one model differ by more than is allowed."""

    exit_code = 6


def nearest(word: str, known: Collection[str]) -> str:
    """What to add to a message about an unknown word.

    Example:
        >>> nearest("fractoin", ["fraction", "seed"])
        "; did you mean 'fraction'?"
        >>> nearest("x", ["fraction", "seed"])
        '; known: fraction, seed.'
    """
    close = difflib.get_close_matches(word, list(known), 1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}." if known else "; it takes none."
