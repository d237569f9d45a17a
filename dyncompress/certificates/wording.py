"""The sentences of a certificate."""

from __future__ import annotations

import math

from dyncompress.certificates.risks import AGREEMENT, known_risk
from dyncompress.types import Certificate, Line

VACUOUS = "the bound is vacuous: the held-out examples are too few, or the file differs on too many of them, to promise anything"


def is_vacuous(certificate: Certificate) -> bool:
    """Whether a certificate promises nothing, because the bound that it states, rounded up as it is printed, is 1 or more.

    No loss in [0, 1] can rise by more than 1, so such a bound holds for every file.
    """
    return not certificate.lines or _promises_nothing(certificate.lines[0])


def sample(certificate: Certificate) -> str:
    """The size of the held-out sample in words: the number of examples and, where groups are the independent units, of groups."""
    examples = certificate.counts.get("examples", certificate.n)
    grouped = "groups" in certificate.evidence or examples != certificate.n
    return f"{examples:,} held-out examples" + (f" in {certificate.n:,} groups" if grouped else "")


def statement(risk: str, delta: float, line: Line, n: int, unit: str) -> str:
    """The sentence that states what a certificate guarantees.

    Args:
        risk: the written form of a risk of the library, or the name of a user's own.
        delta: failure probability of all lines together.
        line: the line that the certificate promises.
        n: number of independent units.
        unit: `example` or `group`, the unit of independence.
    """
    where = "on examples drawn like the held-out ones" if unit == "example" else "on groups drawn like the held-out ones"
    subject = f"With confidence {100 * (1 - delta):.6g} %, {where} ({n} independent {unit}s)"
    if risk == AGREEMENT:
        bound = f"{subject}, the file's prediction differs from the original's with probability at most {_up(line.upper)}"
        if _promises_nothing(line):
            return f"{bound}; {VACUOUS}."
        return f"{bound}, so that its error rate differs by at most as much, whatever the labels."
    known = known_risk(risk)
    name = f"risk '{risk}'" if known is None else known.quantity
    vacuous = f"; {VACUOUS}" if _promises_nothing(line) else ""
    return f"{subject}, the file's {name} exceeds the original's by at most {_up(line.upper)}{vacuous}."


def _promises_nothing(line: Line) -> bool:
    """Whether the printed bound of a line is 1 or more."""
    return float(_up(line.upper)) >= 1


def _up(value: float) -> str:
    """The value with four decimals, rounded up, so that a statement is never tighter than its bound."""
    return f"{math.ceil(value * 10_000 - 1e-9) / 10_000:.4f}"


def assumptions(unit: str) -> tuple[str, ...]:
    """The assumptions under which the bounds hold, one sentence each, for independent `unit`s (`example` or `group`)."""
    return (
        f"The {unit}s were drawn independently from the population that the file will meet.",
        "None of the examples was used to train, calibrate, tune or choose anything, except to choose among plans where the "
        "certificate tells of a selection.",
        "The file runs on the runtime that the certificate names.",
    )
