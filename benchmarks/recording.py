"""The overhead of recording a trajectory on a training step, at the default distance between records.

Steps with and without a record alternate, and their order changes from round to round. The cost of one record is divided by the
`EVERY` steps between records. There are two figures, both relative to steps without a record. `added` comes from the difference
of the two kinds of steps: it includes everything (also caches), and the noise of two large numbers. `share` comes from the time
inside the recorder alone, and is precise. Both are minima over the rounds; `share_median` comes from medians. With one thread the
clock is the processor time of the process, which ignores other processes; with two threads it is the wall time.

    python -m benchmarks.recording            # writes benchmarks/results/recording.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar_resnet import CifarResNet
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import layer_weights, record
from dyncompress.recording.writer import EVERY

RESULT = Path(__file__).parent / "results" / "recording.json"


def small(channels: int) -> nn.Module:
    """Three convolutions with BatchNorm, and a linear layer: 57 000 weights."""
    widths = ((channels, 32), (32, 64), (64, 64))
    parts = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in widths]
    return nn.Sequential(*parts[:2], nn.MaxPool2d(2), parts[2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def perceptron() -> nn.Module:
    """Ten million weights, each used once for each example: the worst case."""
    return nn.Sequential(nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small convolutional net, 8 x 8 images": (lambda: small(1), (128, 1, 8, 8)),
    "small convolutional net, 32 x 32 images": (lambda: small(3), (128, 3, 32, 32)),
    "ResNet-20": (lambda: CifarResNet(3), (128, 3, 32, 32)),
    "perceptron, batch 64": (perceptron, (64, 3072)),
    "perceptron, batch 512": (perceptron, (512, 3072)),
}


@dataclass(frozen=True)
class Row:
    """The results of one network: milliseconds of one step and of one record, and shares as fractions."""

    network: str
    weights: int
    layers: int
    batch: int
    threads: int
    gradients: bool
    every: int
    rounds: int
    clock: str
    step_ms: float
    record_ms: float
    share: float
    share_median: float
    added: float
    file_bytes_per_record: float
    file_bytes_fixed: int


def measured(name: str, rounds: int, threads: int, gradients: bool) -> Row:
    """Measure one case."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    build, shape = CASES[name]
    model, x, y = build().train(), torch.randn(shape), torch.randint(0, 10, shape[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    clock = time.process_time if threads == 1 else time.perf_counter
    writer = TrajectoryWriter()
    recorder = record(model, writer, every=1, gradients=gradients)

    def step() -> tuple[float, Tensor]:
        start = clock()
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return start, loss

    plain, recorded, spent = [], [], []
    for turn in range(rounds + 1):
        for with_it in (False, True) if turn % 2 else (True, False):
            start, loss = step()
            middle = clock()
            if with_it:
                recorder.step(loss)
            end = clock()
            if turn:  # the first round creates signs and buffers
                (recorded if with_it else plain).append(end - start)
                spent += [end - middle] if with_it else []
    trajectory, weights = writer.trajectory(), sum(w.numel() for w in layer_weights(model).values())
    per_record = sum(part[0].nbytes for part in (*trajectory.sketches.values(), *trajectory.gradients.values())) + 16
    return Row(
        network=name,
        weights=weights,
        layers=len(trajectory.motion),
        batch=shape[0],
        threads=threads,
        gradients=gradients,
        every=EVERY,
        rounds=rounds,
        clock="processor" if threads == 1 else "wall",
        step_ms=1e3 * min(plain),
        record_ms=1e3 * min(spent),
        share=min(spent) / min(plain) / EVERY,
        share_median=float(np.median(spent) / np.median(plain)) / EVERY,
        added=(min(recorded) / min(plain) - 1) / EVERY,
        file_bytes_per_record=per_record,
        file_bytes_fixed=12 * weights,
    )


def written(rows: list[Row]) -> None:
    """Write the rows so far."""
    machine = {"torch": torch.__version__, "processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
    RESULT.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def main() -> None:
    """Measure all cases, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads; use 2 only on an idle machine")
    parser.add_argument("--seconds", type=float, default=12.0, help="approximate duration of each row")
    args = parser.parse_args()
    rows = []
    for threads in args.threads:
        for name in CASES:
            trial = measured(name, 1, threads, gradients=False)
            rounds = int(np.clip(args.seconds / (2e-3 * trial.step_ms), 9, 300))
            for gradients in (False, True):
                rows.append(measured(name, rounds, threads, gradients))
                written(rows)
                r = rows[-1]
                print(
                    f"{r.network}, {threads} threads{', gradients' if gradients else ''}: step {r.step_ms:.2f} ms, record "
                    f"{r.record_ms:.2f} ms, share {100 * r.share:.2f} % (medians {100 * r.share_median:.2f} %), "
                    f"added {100 * r.added:+.2f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
