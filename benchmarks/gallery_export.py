"""The ONNX files of the gallery's torch networks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def onnx_file(module: nn.Module, example: Mapping[str, Tensor], output: str, free: Mapping[str, Mapping[int, str]]) -> bytes:
    """The ONNX file that `torch.onnx.export` writes from the graph of `torch.export`.

    Args:
        module: in eval mode.
        example: input name -> tensor, in the order of the forward method.
        output: name of the one output.
        free: input name -> its axes of any size, with their names.
    """
    sizes = {name: torch.export.Dim(name, min=1) for axes in free.values() for name in axes.values()}
    shapes = tuple({axis: sizes[size] for axis, size in free[name].items()} for name in example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(
            module,
            tuple(example.values()),
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()
