"""The data of all rows of the frontier: networks, calibration images for each seed, and test images.

Calibration seed 0 is the first 1 024 training images; seed s > 0 draws 1 024 of the 50 000 with `numpy.random.default_rng(s)`.
Tuning uses `tuning_images()` only: training images outside every calibration set, without labels. Rows that distil all weights
calibrate on 10 000 images, drawn in the same way, and have tuning images of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.cifar_resnet import CifarResNet
from benchmarks.judging import float_onnx, outputs
from dyncompress.models.torch.opening import open_model
from tests.data import cifar10, data_file

SEEDS = (0, 1, 2)
CALIBRATION = 1024
DISTILLATION_IMAGES = 10_000  # calibration images of rows that distil all weights
TRAINING = 50_000
TUNING = {CALIBRATION: slice(4096, 6144), DISTILLATION_IMAGES: slice(20_000, 22_048)}
KEEP = Path(__file__).resolve().parent.parent / "out" / "frontier"


def network(name: str) -> nn.Module:
    """A pretrained ResNet by its name, `resnet20`, `resnet44`, ...: any depth with weights in the data folder."""
    from safetensors.torch import load_file

    module = CifarResNet((int(name.removeprefix("resnet")) - 2) // 6)
    module.load_state_dict(load_file(data_file(f"models/cifar10_{name}.safetensors")))
    return module.eval()


def chosen(seed: int, n: int = CALIBRATION) -> np.ndarray:
    """The indices `[n]` of the training images that a seed calibrates on."""
    if seed == 0:
        return np.arange(n)
    return np.random.default_rng(seed).choice(TRAINING, n, replace=False)


def calibration(seed: int, keep: Path = KEEP, n: int = CALIBRATION) -> np.ndarray:
    """The calibration images of a seed, `[n, 3, 32, 32]` float32. Drawn images are stored, because reading all takes 20 s."""
    if seed == 0:
        return cifar10("train", n)[0].numpy()
    path = keep / (f"calibration_{seed}.npy" if n == CALIBRATION else f"calibration_{seed}_{n}.npy")
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        np.save(path, cifar10("train")[0].numpy()[chosen(seed, n)])
    return np.load(path)


def tuning_images(n: int = CALIBRATION) -> np.ndarray:
    """Training images outside every calibration set of n images, for tuning: `[m, 3, 32, 32]`, without labels."""
    there, taken = TUNING[n], np.unique(np.concatenate([chosen(seed, n) for seed in SEEDS]))
    free = np.setdiff1d(np.arange(there.start, there.stop), taken)
    return cifar10("train", there.stop)[0].numpy()[free]


@cache
def test_images() -> tuple[np.ndarray, np.ndarray]:
    """All 10 000 test images and their labels."""
    x, y = cifar10("test")
    return x.numpy(), y.numpy()


def sha256(content: bytes) -> str:
    """The hex digest of the content."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Case:
    """One network with one calibration set.

    Attributes:
        net: name of the network.
        seed: seed of the calibration images.
        keep: folder for files that are not committed.
    """

    net: str
    seed: int
    keep: Path = KEEP

    def module(self) -> nn.Module:
        """A fresh copy of the pretrained network."""
        return network(self.net)

    @cached_property
    def images(self) -> np.ndarray:
        """Calibration images `[1024, 3, 32, 32]`."""
        return self.drawn(CALIBRATION)

    def drawn(self, n: int) -> np.ndarray:
        """n calibration images, `[n, 3, 32, 32]`."""
        return calibration(self.seed, self.keep, n)

    @property
    def float_file(self) -> bytes:
        """The original's float32 ONNX file."""
        return float_file(self.net)


@dataclass(frozen=True)
class Made:
    """The result of a tool on a case.

    Attributes:
        content: the ONNX file that runs.
        macs: multiply-accumulates for one example.
        seconds: wall time of the tool's call.
        cpu_seconds: processor time of the same call.
        phases: part of the work -> seconds.
        more: further values to store.
    """

    content: bytes
    macs: int
    seconds: float
    cpu_seconds: float
    phases: dict[str, float]
    more: dict[str, object] | None = None


class NotHereError(Exception):
    """A row cannot be computed on this machine; the message gives the reason."""


@cache
def float_file(net: str) -> bytes:
    """The stripped float32 ONNX file of a network."""
    return float_onnx(network(net), cifar10("train", CALIBRATION)[0].numpy())


@cache
def float_macs(net: str) -> int:
    """Multiply-accumulates of one image."""
    return open_model(network(net), {"x": torch.zeros(2, 3, 32, 32)}).macs


@cache
def float_scores(net: str, keep: Path = KEEP) -> np.ndarray:
    """Scores of the float32 file on the test images, `[10000, 10]`; computed once and stored."""
    path = keep / net / f"float32_{sha256(float_file(net))[:12]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, outputs(float_file(net), test_images()[0]))
    return np.load(path)
