"""Progress on standard error: a bar with the remaining time on a terminal, or one line for each phase in a log."""

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
    """Writes one line with the seconds at the end of each phase, for logs and pipes.

    Attributes:
        stream: that the lines are written to.
    """

    stream: TextIO

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Write the line if the phase ends without an error."""
        start = time.perf_counter()
        yield NoStep()
        of = "" if total is None else f" ({total})"
        with suppress(OSError, ValueError):  # the stream is closed or full, which is no reason to stop
            self.stream.write(f"{name}{of}: {time.perf_counter() - start:.1f} s\n")
            self.stream.flush()


@dataclass(frozen=True)
class BarStep:
    """One bar on a terminal.

    Attributes:
        bars: the `rich.progress.Progress` that draws it.
        task: the bar's identifier in it.
    """

    bars: Any
    task: Any

    def advance(self, amount: int = 1) -> None:
        """Advance the bar."""
        self.bars.advance(self.task, amount)


@dataclass(frozen=True)
class Bars:
    """Draws a bar with the remaining time for each phase, which stays visible when the phase ends.

    Attributes:
        stream: a terminal.
    """

    stream: TextIO

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Draw one bar during the phase."""
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
    """Bars if standard error is a terminal, else one line for each phase; nothing if it is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return SILENT
    return Bars(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
