"""Compares what an example prints with its committed output: the same words, and numbers that agree roughly.

Another processor or another version of a dependency rounds otherwise, so that a few bytes and a few errors more or less are no
difference. Which width a layer gets may change too: of the lines of a plan only the layer's name is compared.
"""

from __future__ import annotations

import re

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?")
PLAN = re.compile(r"^(\S+) .*(?:predicted distortion|the only option)")
BAR = re.compile(r"#+$")
RELATIVE, ABSOLUTE = 0.25, 0.03


def words(line: str) -> str:
    """A line with a mark in the place of each number; of a plan's line, the layer's name."""
    plan = PLAN.match(line)
    return plan.group(1) if plan else NUMBER.sub("<number>", BAR.sub("", line)).strip()


def numbers(line: str) -> list[float]:
    """The numbers of a line, percentages as fractions; none of a plan's line."""
    found = [] if PLAN.match(line) else NUMBER.findall(BAR.sub("", line))
    return [float(text.rstrip("%").replace(",", "")) / (100 if text.endswith("%") else 1) for text in found]


def differences(printed: str, committed: str) -> list[str]:
    """A sentence for each line that differs; empty where the two outputs agree."""
    found, wanted = printed.splitlines(), committed.splitlines()
    if len(found) != len(wanted):
        return [f"{len(found)} lines were printed, {len(wanted)} are committed"]
    return [
        f"line {i}: printed {mine!r}, committed {theirs!r}"
        for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True), 1)
        if words(mine) != words(theirs) or not _close(numbers(mine), numbers(theirs))
    ]


def _close(found: list[float], wanted: list[float]) -> bool:
    """Whether two lines' numbers agree one by one: those above 1 to a share of themselves, fractions to a fixed distance."""
    pairs = zip(found, wanted, strict=True)
    return all(abs(mine - theirs) <= (ABSOLUTE if abs(theirs) <= 1 else RELATIVE * abs(theirs)) for mine, theirs in pairs)
