"""How long compression takes beside the static quantizer of onnxruntime, on the gallery's rows, in turns in one process.

Both get the same float file and calibration examples. The static quantizer has one pass over the data and checks nothing; ours
has the passes of moment matching, and of the comparisons that a file passes before it leaves. Files of the static quantizer that
don't run or that lose the metric are named in the gallery's own table. Certification isn't part of either.
Run: `python -m benchmarks.gallery_seconds [--only 'ppocr-*'] [--table]`
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dyncompress as dc
from benchmarks import cells
from benchmarks.frontier_data import NotHereError
from benchmarks.gallery import FILES, OURS, ROWS, first_line, float_file
from benchmarks.gallery_peers import PeerError, calls_of, onnxruntime_static
from benchmarks.gallery_tables import SECONDS, STATIC, seconds_table
from benchmarks.judging import TARGET
from dyncompress import deployment
from dyncompress.deployment.session import processor

ROUNDS = 2


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cell_of(key: str) -> cells.Cell:
    """The seconds of both tools on a row, the smallest of the rounds, and how much longer ours takes; or why there are none."""
    row = next(row for row in ROWS if row.name == key)
    try:
        content, calibration = float_file(FILES, row), row.calibration()
    except (NotHereError, pytest.skip.Exception) as reason:
        return {"skipped": str(reason)}
    calls = calls_of(content, calibration)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        tools: dict[str, Callable[[], object]] = {
            STATIC: lambda: onnxruntime_static(content, calls),
            OURS: lambda: dc.compress(path if row.module is None else row.module(), OURS, target=TARGET, calibration=calibration),
        }
        found: dict[str, list[float]] = {tool: [] for tool in tools}
        for _ in range(ROUNDS):
            for tool, work in tools.items():
                try:
                    found[tool].append(seconds_of(work))
                except (PeerError, RuntimeError, ValueError) as error:
                    return {"skipped": f"{tool}: {first_line(error)}"}
    best = {tool: min(values) for tool, values in found.items()}
    more = {"load": os.getloadavg()[0], "environment": deployment.environment(), "processor": processor()}
    return {"seconds": best, "ratio": best[OURS] / best[STATIC], "rounds": ROUNDS, **more}


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    if "skipped" in cell:
        return f"{key}: {cell['skipped']}"
    seconds = cell["seconds"]
    return f"{key}: {seconds[OURS]:.1f} s, {STATIC} {seconds[STATIC]:.1f} s, {cell['ratio']:.1f}x"


if __name__ == "__main__":
    dc.compress(
        torch.nn.Linear(8, 3), OURS, target=TARGET, calibration=torch.randn(16, 8)
    )  # loads the libraries, which isn't timed
    cells.script(__doc__, [row.name for row in ROWS], SECONDS, cell_of, told, seconds_table)
