"""The Protocols by which the verbs report their progress, and the default that reports nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


class Step(Protocol):
    """Counts the progress of one phase."""

    def advance(self, amount: int = 1) -> None:
        """Report that `amount` more units of the phase's total are done."""
        ...


class Progress(Protocol):
    """Receives the progress of the verbs: `with progress.phase("measure the layers", 20) as step: ... step.advance()`."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Step]:
        """A context manager for one phase of the work, of `total` units if their number is known."""
        ...


@dataclass(frozen=True)
class NoStep:
    """A step that ignores what is reported."""

    def advance(self, amount: int = 1) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Silent:
    """Shows no progress: the default of every verb."""

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """A phase that shows nothing."""
        yield NoStep()


SILENT = Silent()
