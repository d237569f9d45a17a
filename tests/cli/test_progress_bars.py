"""Progress: silent by default, one line per phase in a pipe, and bars with the time left on a terminal."""

from __future__ import annotations

import io

import pytest

from dyncompress.cli.progress_bars import Bars, Lines, on_standard_error
from dyncompress.types.progress import SILENT, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    with progress.phase("measure", 3) as step:
        for _ in range(3):
            step.advance()
    with progress.phase("export"):
        pass


def test_progress_is_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    work(SILENT)
    assert capfd.readouterr() == ("", "")


def test_a_pipe_gets_one_line_per_phase() -> None:
    stream = io.StringIO()
    work(Lines(stream))
    lines = stream.getvalue().splitlines()
    assert [line.rpartition(":")[0] for line in lines] == ["measure (3)", "export"]
    assert all(line.endswith(" s") for line in lines)


def test_a_terminal_gets_counts_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    work(Bars(stream))
    shown = stream.getvalue()
    assert "3/3" in shown
    assert "left" in shown
    assert "export" in shown


def test_a_failed_phase_is_not_reported_as_done() -> None:
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Lines(stream).phase("measure"):
        raise ZeroDivisionError
    assert stream.getvalue() == ""


def test_standard_error_in_a_pipe_gets_lines() -> None:
    assert isinstance(on_standard_error(), Lines)
