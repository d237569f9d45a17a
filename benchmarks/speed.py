"""Wall and processor time of a whole `compress` call on ResNet-20, by phase, beside onnxruntime's own static quantizer.

Both start from the same torch module and the same 1 024 calibration images and end with an int8 file. The time of onnxruntime
includes the float export with torch.onnx, its pre-processing and `quantize_static` (per channel, QDQ, MinMax). Rounds are
interleaved in one process; minimum and median are over rounds. The first call of a process also imports modules on first use, so
it is reported separately.
Run: `DYNCOMPRESS_DATA=... python -m benchmarks.speed [--recipes edge-int8 ...] [--rounds 3]`
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

import dyncompress as dc
from dyncompress import deployment
from dyncompress.types.progress import NoStep, Step
from tests.data import cifar10, resnet20

RESULTS = Path(__file__).parent / "results"
TARGET = "onnxruntime-x86-vnni"
PEER = "onnxruntime quantize_static"


class Clock:
    """A `Progress` that stores the wall and processor seconds of every phase."""

    def __init__(self) -> None:
        """Start without phases."""
        self.phases: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Time one phase; the times of a repeated phase are added."""
        wall, own = time.perf_counter(), time.process_time()
        yield NoStep()
        known = self.phases.setdefault(name, [0.0, 0.0])
        known[0] += time.perf_counter() - wall
        known[1] += time.process_time() - own


class Reader(quantization.CalibrationDataReader):
    """Calibration batches for onnxruntime's quantizer."""

    def __init__(self, images: np.ndarray) -> None:
        """Split the images into batches of 128."""
        self.batches = iter([{"x": images[i : i + 128]} for i in range(0, len(images), 128)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end."""
        return next(self.batches, None)


def peer(model: torch.nn.Module, images: np.ndarray, clock: Clock) -> int:
    """Make an int8 file from a torch module with onnxruntime's own tools; returns the bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        raw, ready, out = (str(Path(folder) / name) for name in ("raw.onnx", "ready.onnx", "int8.onnx"))
        with clock.phase("export"):
            shapes = ({0: torch.export.Dim("batch")},)
            example = torch.from_numpy(images[:2])
            torch.onnx.export(
                model, (example,), raw, input_names=["x"], dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
            )
        with clock.phase("pre-process"):
            quant_pre_process(raw, ready, skip_symbolic_shape=True)
        with clock.phase("calibrate and quantize"):
            quantization.quantize_static(ready, out, Reader(images), per_channel=True)
        return Path(out).stat().st_size


def ours(recipe: str, model: torch.nn.Module, images: np.ndarray, clock: Clock) -> int:
    """Call `compress` once; returns the bytes of the file."""
    return len(dc.compress(model, recipe, target=TARGET, calibration=images, progress=clock).content)


def main() -> None:
    """Time both, print and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipes", nargs="+", default=["edge-int8"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model, images = resnet20(), cifar10("train", 1024)[0].numpy()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*args.recipes, PEER)}
    for _ in range(args.rounds + 1):
        for name, seen in rows.items():
            clock = Clock()
            wall, own = time.perf_counter(), time.process_time()
            size = peer(model, images, clock) if name == PEER else ours(name, model, images, clock)
            whole = {"wall": time.perf_counter() - wall, "processor": time.process_time() - own}
            seen.append({**whole, "bytes": size, "phases": clock.phases})
            print(f"{name:30s} {whole['wall']:6.2f} s wall, {whole['processor']:6.2f} s processor, {size} bytes", flush=True)
    result = {name: summed(seen) for name, seen in rows.items()}
    result["environment"] = {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "threads": torch.get_num_threads(),
        **deployment.environment(),
    }
    (RESULTS / "speed.json").write_text(json.dumps(result, indent=1) + "\n")


def summed(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The first call, the minimum and median of the others, and the medians of the phases."""
    first, *others = seen
    kinds = ("wall", "processor")
    return {
        "bytes": first["bytes"],
        "first": {kind: first[kind] for kind in kinds},
        "minimum": {kind: min(run[kind] for run in others) for kind in kinds},
        "median": {kind: median(run[kind] for run in others) for kind in kinds},
        "phases": {
            name: {kind: median(run["phases"][name][i] for run in others) for i, kind in enumerate(kinds)}
            for name in others[0]["phases"]
        },
    }


if __name__ == "__main__":
    main()
