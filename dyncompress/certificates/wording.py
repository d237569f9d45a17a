"""What a certificate says in words."""

from __future__ import annotations

import math

from dyncompress.types import Line


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
        return (
            f"{sure}, the file's prediction differs from the original's with probability at most {_up(line.upper)}, "
            "so that its error rate differs by at most as much, whatever the labels."
        )
    name = "error rate (0-1 loss)" if risk == "zero_one" else f"risk '{risk}'"
    return f"{sure}, the file's {name} exceeds the original's by at most {_up(line.upper)}."


def _up(value: float) -> str:
    """Four decimals, rounded up: a statement never says less than its bound."""
    return f"{math.ceil(value * 10_000 - 1e-9) / 10_000:.4f}"


def assumptions(unit: str) -> tuple[str, ...]:
    """What must hold for the lines to hold."""
    return (
        f"The {unit}s were drawn independently from the population that the file will meet.",
        "None of the examples was used to train, calibrate, tune or choose anything, except as `selection` says.",
        "The file runs on the runtime named in `environment`.",
    )
