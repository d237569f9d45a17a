"""The demo: a small network is trained on handwritten digits, compressed, and certified, in about a minute.

The data are the 1 797 digits of 8 x 8 pixels in scikit-learn; nothing is downloaded.
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
EVERY = 5  # optimizer steps between two recorded iterates; with small batches, closer ones hold little new information


@dataclass(frozen=True)
class Digits:
    """The digits, split into three parts.

    Attributes:
        training: `(x, y)`, x `[800, 1, 8, 8]` in [0, 1].
        calibration: x `[197, 1, 8, 8]`.
        held_out: `(x, y)` of the other 800 examples, x `[800, 1, 8, 8]`.
    """

    training: tuple[np.ndarray, np.ndarray]
    calibration: np.ndarray
    held_out: tuple[np.ndarray, np.ndarray]


def digits() -> Digits:
    """Load the digits and split them; the split is always the same.

    Raises:
        Unsupported: scikit-learn isn't installed; the message says how to install it.
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
    """An untrained network of three convolutions with batch normalisation and a linear layer; it has 57 000 weights."""
    with _seeded():
        layers = OrderedDict[str, nn.Module]()
        for i, (inputs, outputs) in enumerate(((1, 32), (32, 64), (64, 64)), 1):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.AdaptiveAvgPool2d(1) if i == 3 else nn.MaxPool2d(2) if i == 2 else nn.Identity()
        return nn.Sequential(OrderedDict([*layers.items(), ("flatten", nn.Flatten()), ("head", nn.Linear(64, 10))]))


def train(data: Digits, progress: Progress = SILENT) -> tuple[nn.Module, Trajectory]:
    """Train the network; return it with the recorded trajectory of its last epochs, which have a constant learning rate."""
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
    """Train, measure, allocate, apply, export and certify.

    Returns:
        The certified file, the profile, and the trained network.
    """
    import dyncompress

    data = digits()
    model, trajectory = train(data, progress)
    profile = dyncompress.measure(
        model, RECIPE, target=TARGET, calibration=data.calibration, trajectory=trajectory, progress=progress
    )
    file = dyncompress.compress(
        model, RECIPE, target=TARGET, calibration=data.calibration, held_out=data.held_out, plan=profile, progress=progress
    )
    return file, profile, model


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """Take one optimizer step and return the loss before it."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed torch's global random state, from which initial weights are drawn, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: layers this small aren't faster with more, and sums don't depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
