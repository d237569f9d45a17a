"""What a person sees of the progress: a bar with the time left on a terminal, or a line for each phase in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

from dyncompress.types.progress import SILENT, NoStep, Progress, Step


@dataclass(frozen=True)
class Lines:
    """A line when a phase ends, with its seconds: for logs and pipes.

    Attributes:
        stream: where the lines go.
    """

    stream: TextIO

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Write the line when the phase has ended without an error."""
        start = time.perf_counter()
        yield NoStep()
        of = "" if total is None else f" ({total})"
        with suppress(OSError, ValueError):  # closed or full: the work goes on without anybody being told
            self.stream.write(f"{name}{of}: {time.perf_counter() - start:.1f} s\n")
            self.stream.flush()


@dataclass(frozen=True)
class BarStep:
    """One bar of a terminal."""

    bars: Any
    task: Any

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        self.bars.advance(self.task, amount)


@dataclass(frozen=True)
class Bars:
    """Bars with the time left, on a terminal; each stays as a line when its phase ends.

    Attributes:
        stream: a terminal.
    """

    stream: TextIO

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Draw one bar for as long as the phase lasts."""
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description:<32}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn() if total else progress.TextColumn(""),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        shown = columns if total else (columns[0], progress.SpinnerColumn(), columns[3])
        with progress.Progress(*shown, console=Console(file=self.stream)) as bars:
            task = bars.add_task(name, total=total)
            yield BarStep(bars, task)
            bars.update(task, total=total or 1, completed=total or 1)


def on_standard_error() -> Progress:
    """Bars where standard error is a terminal, else a line a phase; nothing where it is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return SILENT
    return Bars(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
