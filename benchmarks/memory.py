"""Peak memory of a whole `compress` call on a network ten times wider than ResNet-20, against the bound that it should keep.

The bound, without distillation: 4 x the model + 3 x the largest moment matrix of a layer (float64, K x K) + 2 x the activations
of one batch (outputs of all layers), in addition to the process after its imports. Phases that only write ONNX (exporter,
protobuf, onnxruntime) are reported separately. Peaks are VmHWM as the kernel counts it, reset at the start of every phase
(Linux). Weights and images are random, because memory does not depend on them.
Run: `python -m benchmarks.memory [--recipe edge-int4] [--width 10] [--examples 64] [--batch 32]`
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import dyncompress as dc
from benchmarks.cifar_resnet import Block, CifarResNet
from dyncompress.models.torch import observing, onnx_graph
from dyncompress.models.torch.opening import open_model
from dyncompress.types import InputMoment
from dyncompress.types.progress import NoStep, Step

RESULTS = Path(__file__).parent / "results"
WRITING = (
    "export the original",
    "count the bytes that stay fixed",
    "export to ONNX",
    "write the integer graph",
    "compare with the original model",
)


class Wide(CifarResNet):
    """ResNet-20 with `width` times as many channels and the initialisation of He et al."""

    def __init__(self, width: int) -> None:
        """Build the network with seed 0."""
        torch.manual_seed(0)
        super().__init__(0)
        a, b, c = 16 * width, 32 * width, 64 * width
        self.conv1, self.bn1 = nn.Conv2d(3, a, 3, padding=1, bias=False), nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(*[Block(a, a, 1) for _ in range(3)])
        self.layer2 = nn.Sequential(Block(a, b, 2), Block(b, b, 1), Block(b, b, 1))
        self.layer3 = nn.Sequential(Block(b, c, 2), Block(c, c, 1), Block(c, c, 1))
        self.linear = nn.Linear(c, 10)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)


class Peaks:
    """A `Progress` that reads the memory peak of every phase, and of the time between phases."""

    def __init__(self) -> None:
        """Start from the present size of the process."""
        self.found: list[tuple[str, int]] = []
        self.base = _reset()

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Read the peak of the time before the phase, then that of the phase."""
        self.close("between phases")
        yield NoStep()
        self.close(name)

    def close(self, name: str) -> None:
        """Store the peak since the last reading, in bytes above the start."""
        self.found.append((name, _status("VmHWM") - self.base))
        _reset()


def _status(key: str) -> int:
    """The value of a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _reset() -> int:
    """Reset the peak to the present size, and return that size."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def terms(width: int, batch: int) -> dict[str, int]:
    """The terms of the bound in bytes, and the number of passes over the data for the moments."""
    opened = open_model(Wide(width).eval(), {"x": np.zeros((2, 3, 32, 32), np.float32)})
    seen = [layer for layer in opened.layers() if not layer.left_alone]
    return {
        "model": 4 * sum(p.numel() for p in opened.module.parameters()),
        "largest_moment": 8 * max(layer.groups * layer.fan_in**2 for layer in seen),
        "all_moments": 8 * sum(layer.groups * layer.fan_in**2 for layer in seen),
        "batch_activations": 4 * opened.trace.activations * batch,
        "passes": len(list(observing._passes(seen, (InputMoment(),)))),
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="edge-int4")
    parser.add_argument("--width", type=int, default=10)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    known = terms(args.width, args.batch)
    _warm()
    images = np.random.default_rng(0).normal(size=(args.examples, 3, 32, 32)).astype(np.float32)
    peaks = Peaks()
    model = Wide(args.width).eval()
    batches = [{"x": images[i : i + args.batch]} for i in range(0, len(images), args.batch)]
    file = dc.compress(model, args.recipe, calibration=batches, progress=peaks)
    peaks.close("between phases")
    whole = max(peak for _, peak in peaks.found)
    working = max(peak for name, peak in peaks.found if name not in WRITING)
    bound = 4 * known["model"] + 3 * known["largest_moment"] + 2 * known["batch_activations"]
    result = {
        "recipe": args.recipe,
        "width": args.width,
        "examples": args.examples,
        "batch": args.batch,
        **known,
        "bound": bound,
        "peak": working,
        "share_of_bound": working / bound,
        "peak_with_export": whole,
        "phases": [{"phase": name, "peak": peak} for name, peak in peaks.found],
        "bytes": len(file.content),
        "environment": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "threads": torch.get_num_threads()},
    }
    for name, peak in peaks.found:
        print(f"{name:34s} {peak / 2**20:8.0f} MiB")
    print(json.dumps({key: value for key, value in result.items() if key != "phases"}, indent=1))
    (RESULTS / f"memory_{args.recipe}.json").write_text(json.dumps(result, indent=1) + "\n")


def _warm() -> None:
    """Compress a small network once, so that everything is imported before the measurement begins."""
    assert onnx_graph.export_onnx is not None
    x = np.zeros((8, 3, 32, 32), np.float32) + np.arange(8, dtype=np.float32)[:, None, None, None]
    dc.compress(CifarResNet(1).eval(), "edge-int8", calibration=x)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
