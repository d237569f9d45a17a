"""A whole run in a minute: a small network learns handwritten digits, is compressed, and its file is certified.

Data: the 1 797 digits of 8 x 8 pixels that scikit-learn carries; nothing is downloaded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dyncompress.errors import Unsupported
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import record
from dyncompress.types import OnnxFile, Profile, Trajectory
from dyncompress.types.progress import SILENT, Progress

SEED = 0
RECIPE = "demo"
TARGET = "onnxruntime-x86-vnni"
TRAINING, CALIBRATION = 800, 197  # the other 800 are held out
EPOCHS, RECORDED_EPOCHS = 16, 6
BATCH = 32
LEARNING_RATE, LATE_LEARNING_RATE = 0.05, 0.005
EVERY = 5  # optimizer steps between two recorded iterates: at small batches neighbours say nothing new


@dataclass(frozen=True)
class Digits:
    """A fixed split of the digits.

    Attributes:
        training: `(x, y)`, x `[800, 1, 8, 8]` in [0, 1].
        calibration: x `[197, 1, 8, 8]`.
        held_out: `(x, y)` of the 800 others.
    """

    training: tuple[np.ndarray, np.ndarray]
    calibration: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]


def digits() -> Digits:
    """The split.

    Raises:
        Unsupported: scikit-learn isn't installed; the message says how to get it.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise Unsupported('the demo reads the digits of scikit-learn: pip install "dyncompress[demo]".') from error
    data: Any = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    x = (data.images / 16).astype(np.float32)[order, None]
    y = data.target.astype(np.int64)[order]
    seen = TRAINING + CALIBRATION
    return Digits((x[:TRAINING], y[:TRAINING]), x[TRAINING:seen], (x[seen:], y[seen:]))


def network() -> nn.Module:
    """Three convolutions with batch normalisation and a linear layer, 57 000 weights, untrained."""
    with _seeded():
        layers = OrderedDict[str, nn.Module]()
        for i, (inputs, outputs) in enumerate(((1, 32), (32, 64), (64, 64)), 1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.AdaptiveAvgPool2d(1) if i == 3 else nn.MaxPool2d(2) if i == 2 else nn.Identity()
        return nn.Sequential(OrderedDict([*layers.items(), ("flatten", nn.Flatten()), ("head", nn.Linear(64, 10))]))


def trained(data: Digits, progress: Progress = SILENT) -> tuple[nn.Module, Trajectory]:
    """The network after training, and the record of its last epochs at a constant learning rate."""
    x, y = (torch.from_numpy(part) for part in data.training)
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    writer = TrajectoryWriter(seed=SEED, learning_rate=LATE_LEARNING_RATE, batch_size=BATCH)
    recorder = record(model, writer, every=EVERY)
    generator = torch.Generator().manual_seed(SEED)
    with _one_thread(), progress.phase("train on digits", EPOCHS) as step:
        for epoch in range(EPOCHS):
            late = epoch >= EPOCHS - RECORDED_EPOCHS
            optimizer.param_groups[0]["lr"] = LATE_LEARNING_RATE if late else LEARNING_RATE
            for batch in torch.randperm(len(x), generator=generator).split(BATCH):
                loss = _step(model, optimizer, x[batch], y[batch])
                if late:
                    recorder.step(loss)
            step.advance()
    return model.eval(), writer.trajectory()


def run(progress: Progress = SILENT) -> tuple[OnnxFile, Profile, nn.Module]:
    """Train, measure, allocate, apply, export and certify, by the same verbs as every other run.

    Returns:
        the certified file, what was measured, and the trained network.
    """
    import dyncompress

    data = digits()
    model, trajectory = trained(data, progress)
    profile = dyncompress.measure(
        model, RECIPE, target=TARGET, calibration=data.calibration, trajectory=trajectory, progress=progress
    )
    file = dyncompress.compress(
        model, RECIPE, target=TARGET, calibration=data.calibration, held_out=data.held_out, plan=profile, progress=progress
    )
    return file, profile, model


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """One optimizer step; the loss before it."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


@contextmanager
def _seeded() -> Iterator[None]:
    """Torch draws initial weights from its global state: seed it here, and put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small gain nothing from more threads (on busy cores they wait for one another), and the sums come out alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
