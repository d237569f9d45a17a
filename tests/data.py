"""Loads real data from the folder that the environment variable `DYNCOMPRESS_DATA` names.

If the folder is absent, tests that need it are skipped with the reason, and scripts get the same message as an exception.
"""

from __future__ import annotations

import io
import os
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.cifar_resnet import CifarResNet, normalised

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def data_file(name: str) -> Path:
    """The path of `name` in the data folder; skips the test if it does not exist."""
    folder = os.environ.get("DYNCOMPRESS_DATA", "")
    if not folder:
        pytest.skip("real data: set DYNCOMPRESS_DATA to the folder that holds it")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"real data: {name} is not in DYNCOMPRESS_DATA")
    return path


@cache
def cifar10(split: str = "test", n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` images of CIFAR-10 in a fixed random order with mixed classes.

    Args:
        split: `train` or `test`.
        n: number of images; None for all.

    Returns:
        Images `[n, 3, 32, 32]` float32, normalised for the pretrained networks, and labels `[n]` int64.
    """
    image = pytest.importorskip("PIL.Image", reason="reading the JPEG copies of CIFAR-10 needs pillow")
    with zipfile.ZipFile(data_file(f"cifar10_jpeg_{split}.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        order = np.random.default_rng(0).permutation(len(names))[:n]
        chosen = [names[i] for i in order]
        pixels = np.stack([np.asarray(image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen])
    labels = torch.tensor([CLASSES.index(name.split("/")[-2]) for name in chosen])
    return normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255), labels


@cache
def mnist(split: str = "test", n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `n` digits: images `[n, 1, 28, 28]` float32 in [0, 1] and labels `[n]` int64."""
    with np.load(data_file("mnist.npz")) as arrays:
        images, labels = arrays[f"x_{split}"][:n], arrays[f"y_{split}"][:n]
    return torch.from_numpy(images).unsqueeze(1).float() / 255, torch.from_numpy(labels).long()


def _resnet(blocks: int, name: str) -> nn.Module:
    load_file = pytest.importorskip("safetensors.torch").load_file
    module = CifarResNet(blocks)
    module.load_state_dict(load_file(data_file(f"models/{name}.safetensors")))
    return module.eval()


def resnet20() -> nn.Module:
    """A new copy of the pretrained ResNet-20 in eval mode."""
    return _resnet(3, "cifar10_resnet20")


def resnet44() -> nn.Module:
    """A new copy of the pretrained ResNet-44 in eval mode."""
    return _resnet(7, "cifar10_resnet44")
