"""The Protocols by which the verbs report their progress, and the default that reports nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


class Step(Protocol):
    """What a phase hands to the work inside it."""

    def advance(self, amount: int = 1) -> None:
        """So many more units of the phase's total are done."""
        ...


class Progress(Protocol):
    """Told of phases by the verbs. `with progress.phase("measure the layers", 20) as step: ... step.advance()`."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Step]:
        """A stretch of work; `total` units where their number is known."""
        ...


@dataclass(frozen=True)
class NoStep:
    """Counts nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing is told."""


@dataclass(frozen=True)
class Silent:
    """Tells nobody: the default of every verb."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Nothing is told."""
        yield NoStep()


SILENT = Silent()
