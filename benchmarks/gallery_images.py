"""Rows of the gallery with images: CIFAR ResNets as both exporters of PyTorch write them, and straight from torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import nn

from benchmarks.gallery_export import onnx_file
from benchmarks.gallery_row import Row, Run
from tests.data import cifar10, resnet20, resnet44

CALIBRATION = 256  # training images
TEST = 2_000
HELD_OUT = 2_000
INPUT = "x"


@cache
def images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images `[n, 3, 32, 32]` and labels `[n]` of `calibration`, `test` or `held_out`, which have none in common."""
    if split == "calibration":
        x, y = cifar10("train", CALIBRATION)
        return x.numpy(), y.numpy()
    x, y = cifar10("test", TEST + HELD_OUT)
    part = slice(TEST) if split == "test" else slice(TEST, None)
    return x[part].numpy(), y[part].numpy()


def right(run: Run) -> np.ndarray:
    """Whether the class of each test image is right, `[2000]`."""
    x, y = images("test")
    return (run({INPUT: x})[0].argmax(1) == y).astype(np.float64)


def dynamo_file(build: Callable[[], nn.Module]) -> bytes:
    """The ONNX file that `torch.onnx.export` writes from the graph of `torch.export`, for any number of images."""
    return onnx_file(build(), {INPUT: torch.zeros(2, 3, 32, 32)}, "scores", {INPUT: {0: "n"}})


def torchscript_file(build: Callable[[], nn.Module]) -> bytes:
    """The ONNX file that the exporter based on TorchScript writes, for any number of images."""
    buffer, sizes = io.BytesIO(), {INPUT: {0: "n"}, "scores": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch deprecates this exporter
        torch.onnx.export(
            build(),
            (torch.zeros(2, 3, 32, 32),),
            buffer,
            input_names=[INPUT],
            output_names=["scores"],
            dynamic_axes=sizes,
            dynamo=False,
        )
    return buffer.getvalue()


def row(name: str, made_by: str, float_file: Callable[[], bytes], module: Callable[[], nn.Module] | None = None) -> Row:
    """A row of a network that classifies CIFAR images."""
    return Row(
        name=name,
        kind="images",
        made_by=made_by,
        metric="images whose class is right",
        float_file=float_file,
        calibration=lambda: {INPUT: images("calibration")[0]},
        judge=right,
        example=lambda: {INPUT: images("test")[0][:1]},
        held_out=lambda: ({INPUT: images("held_out")[0]}, images("held_out")[1]),
        risk="zero_one",
        module=module,
    )


TRAINED = "akamaster/pytorch_resnet_cifar10"
ROWS: tuple[Row, ...] = (
    row("resnet20", f"{TRAINED}, torch.onnx.export", partial(dynamo_file, resnet20)),
    row("resnet20-torchscript", f"{TRAINED}, torch.onnx.export(dynamo=False)", partial(torchscript_file, resnet20)),
    row("resnet20-module", f"{TRAINED}, a torch module; other tools get the file", partial(dynamo_file, resnet20), resnet20),
    row("resnet44", f"{TRAINED}, torch.onnx.export", partial(dynamo_file, resnet44)),
    row("resnet44-torchscript", f"{TRAINED}, torch.onnx.export(dynamo=False)", partial(torchscript_file, resnet44)),
)
