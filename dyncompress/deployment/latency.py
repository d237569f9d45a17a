"""Files of narrower networks, for timing only: channels are cut off in a float graph and weights are rounded to nearest.

The outputs of such a file are meaningless; its running time is that of a network of these widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from dyncompress.deployment.writer import write
from dyncompress.types import FLOAT_BITS, Encoding, Placement, Target

Ranges = Mapping[str, tuple[float, float]]
Places = Mapping[str, Sequence[Placement]]


@dataclass(frozen=True)
class Cut:
    """The size of a layer's weight matrix after the cut.

    Attributes:
        rows: number of output channels; None: all.
        columns: number of inputs of a row, in / groups * kernel size; None: all.
    """

    rows: int | None = None
    columns: int | None = None


def cut_channels(float_file: bytes, places: Places, cuts: Mapping[str, Cut]) -> bytes:
    """The float graph with only the first rows and columns of some layers' weights.

    Args:
        float_file: float32 ONNX.
        places: layer name -> the initializers that hold its weight.
        cuts: layer name -> its new size. The file runs if the cuts of the layers of a channel group fit together.

    Returns:
        The narrower file.
    """
    model = onnx.load_from_string(float_file)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, cut in cuts.items():
        for place in places[layer]:
            weight = tensors[place.initializer]
            array = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(_cut(array, place.layout, cut)), weight.name))
            for node in model.graph.node:
                if place.initializer in list(node.input)[1:] and cut.rows is not None:
                    _cut_bias_and_groups(node, tensors, len(array) if place.layout == "as_is" else array.shape[-1], cut.rows)
    return model.SerializeToString()


def _cut(array: np.ndarray, layout: str, cut: Cut) -> np.ndarray:
    """The first rows and columns of a weight that is stored in a layout."""
    if layout == "transposed":
        return array[: cut.columns, : cut.rows]
    array = array[: cut.rows]
    if cut.columns is None:
        return array
    return array[:, : cut.columns // int(np.prod(array.shape[2:]))]


def _cut_bias_and_groups(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], before: int, rows: int) -> None:
    """Cut a node's bias, and the groups of a depthwise convolution, from `before` to `rows` channels."""
    for name in list(node.input)[2:3]:
        if name in tensors:
            tensors[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[name])[:rows].copy(), name))
    for attribute in node.attribute:
        if attribute.name == "group" and attribute.i == before > 1:
            attribute.i = rows


def nearest_integer_file(float_file: bytes, places: Places, ranges: Ranges, bits: int, target: Target) -> bytes:
    """The integer file of a graph with weights rounded to nearest; with `bits` 32 the float graph on its activation grids.

    Args:
        float_file: float32 ONNX.
        places: layer name -> the initializers that hold its weight.
        ranges: activation name -> (low, high).
        bits: width of the weights, 2 to 8, or 32.
        target: that the file is written for.

    Returns:
        The file.
    """
    if bits == FLOAT_BITS:
        return write(float_file, {}, ranges, target)
    tensors = {t.name: t for t in onnx.load_from_string(float_file).graph.initializer}
    encodings = {}
    for placements in places.values():
        for place in placements:
            if place.initializer in tensors and place.layout != "conv_transpose":
                array = numpy_helper.to_array(tensors[place.initializer])
                encodings[place.initializer] = (_nearest(array.T if place.layout == "transposed" else array, bits), place.layout)
    return write(float_file, encodings, ranges, target)


def _nearest(weight: np.ndarray, bits: int) -> Encoding:
    """Nearest codes, with one scale for each row."""
    top = 2 ** (bits - 1) - 1
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.where(largest > 0, largest / top, 1.0).astype(np.float32)
    codes = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return Encoding(np.clip(codes, -top, top).astype(np.int8), scale, bits)
