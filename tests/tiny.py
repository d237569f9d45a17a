"""A network of 5 000 weights that learns four noisy patterns in a second, and cached results that are slow to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.pipeline.observed_model import ObservedModel
from dyncompress.pipeline.task import InputData, Task, open_task
from dyncompress.recipe.recipe import Recipe
from dyncompress.recipe.toml_files import load_target
from dyncompress.recording.torch_callback import record
from dyncompress.types import Batch, Model, Trajectory

TARGET = "onnxruntime-x86-vnni"
CLASSES = 4
LAYERS = ("stem", "conv1", "conv2", "conv3", "head")


class Tiny(nn.Module):
    """A stem, a residual block and a wider convolution, each with BatchNorm, one convolution without, and a linear head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        x = torch.relu(x + self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 3, 8, 8]` float32 of one of four fixed patterns with noise, and the index of the pattern `[n]`."""
    patterns = np.random.default_rng(99).normal(size=(CLASSES, 3, 8, 8))
    draw = np.random.default_rng(seed)
    y = draw.integers(0, CLASSES, n)
    return (patterns[y] * 0.6 + draw.normal(size=(n, 3, 8, 8))).astype(np.float32), y


CALIBRATION = images(96, seed=2)[0]
HELD_OUT = images(1000, seed=3)


@cache
def trained() -> tuple[nn.Module, Trajectory]:
    """The network after six epochs, and the trajectory of the last three; read only."""
    x, y = (torch.from_numpy(part) for part in images(256, seed=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tiny().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    writer = dc.TrajectoryWriter(seed=0, learning_rate=0.05, batch_size=32)
    recorder = record(model, writer, every=1)
    for epoch in range(6):
        for rows in torch.arange(256).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if epoch >= 3:
                recorder.step(loss.detach())
    return model.eval().requires_grad_(False), writer.trajectory()


def network() -> nn.Module:
    """The trained network; read only."""
    return trained()[0]


def predictions(scores: Any) -> np.ndarray:
    """The class of each row of scores."""
    return np.asarray(scores).argmax(1)


def original_scores() -> np.ndarray:
    """The trained network's scores on the held-out examples."""
    with torch.no_grad():
        return network()(torch.from_numpy(HELD_OUT[0])).numpy()


@cache
def profile(recipe: str = "edge-int8") -> dc.Profile:
    """The trained network's profile for a shipped recipe that reads calibration data."""
    return dc.measure(network(), recipe, target=TARGET, calibration=CALIBRATION)


@cache
def plan() -> dc.Plan:
    """A plan of `edge-int8` with every layer in 8 bits, except conv3 in 4 bits."""
    return with_choice(dc.allocate(profile()), "conv3", weight_bits=4)


@cache
def small() -> dc.Compressed:
    """The result of applying the plan."""
    return dc.apply(network(), plan(), calibration=CALIBRATION)


@cache
def file() -> dc.OnnxFile:
    """The plan's file, not certified."""
    return dc.export(small())


@cache
def certified_file() -> dc.OnnxFile:
    """The plan's file, certified on the held-out examples."""
    return dc.certify(file(), reference=network(), held_out=HELD_OUT)


def with_choice(plan: dc.Plan, unit: str, **changed: Any) -> dc.Plan:
    """The plan with some changed fields in the choice of one unit."""
    asked: Mapping[str, dc.Choice] = {**plan.asked, unit: replace(plan.asked[unit], **changed)}
    return replace(plan, asked=asked)


def task(model: Any, recipe: Recipe, calibration: Any = None, example: Any = None) -> Task:
    """A model opened for the usual target."""
    return open_task(model, recipe, load_target(TARGET), InputData(calibration, example))


def task_on(adapter: Model, batches: Sequence[Batch], recipe: Recipe | None = None) -> Task:
    """An adapter with calibration batches that are taken as they are."""
    return Task(ObservedModel(adapter, batches, True), recipe or Recipe("test"), load_target(TARGET))
