"""What a certificate says in words."""

from __future__ import annotations

import math

from dyncompress.types import Certificate, Line

VACUOUS = "the bound is vacuous: the held-out examples are too few, or the file differs on too many of them, to promise anything"


def is_vacuous(certificate: Certificate) -> bool:
    """Whether a certificate promises nothing: the bound that it states, rounded up as it is printed, is 1 or more.

    No loss in [0, 1] can rise by more than 1, so that such a bound holds for every file.
    """
    return not certificate.lines or _promises_nothing(certificate.lines[0])


def sample(certificate: Certificate) -> str:
    """What a certificate was made on: how many examples and, where groups are the independent units, how many of these."""
    examples = certificate.counts.get("examples", certificate.n)
    grouped = "groups" in certificate.evidence or examples != certificate.n
    return f"{examples:,} held-out examples" + (f" in {certificate.n:,} groups" if grouped else "")


def statement(risk: str, delta: float, line: Line, n: int, unit: str) -> str:
    """The plain sentence of a certificate.

    Args:
        risk: name of the risk.
        delta: of all lines together.
        line: the promised line.
        n: independent units.
        unit: what they are called: `example` or `group`.
    """
    where = "on examples drawn like the held-out ones" if unit == "example" else "on groups drawn like the held-out ones"
    sure = f"With confidence {100 * (1 - delta):.6g} %, {where} ({n} independent {unit}s)"
    if risk == "agreement":
        bound = f"{sure}, the file's prediction differs from the original's with probability at most {_up(line.upper)}"
        if _promises_nothing(line):
            return f"{bound}; {VACUOUS}."
        return f"{bound}, so that its error rate differs by at most as much, whatever the labels."
    name = "error rate (0-1 loss)" if risk == "zero_one" else f"risk '{risk}'"
    vacuous = f"; {VACUOUS}" if _promises_nothing(line) else ""
    return f"{sure}, the file's {name} exceeds the original's by at most {_up(line.upper)}{vacuous}."


def _promises_nothing(line: Line) -> bool:
    return float(_up(line.upper)) >= 1


def _up(value: float) -> str:
    """Four decimals, rounded up: a statement never says less than its bound."""
    return f"{math.ceil(value * 10_000 - 1e-9) / 10_000:.4f}"


def assumptions(unit: str) -> tuple[str, ...]:
    """What must hold for the lines to hold."""
    return (
        f"The {unit}s were drawn independently from the population that the file will meet.",
        "None of the examples was used to train, calibrate, tune or choose anything, except to choose among plans where the "
        "certificate tells of a selection.",
        "The file runs on the runtime that the certificate names.",
    )
