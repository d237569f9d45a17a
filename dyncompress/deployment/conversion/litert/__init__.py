"""The network of an int8 ONNX file in LiteRT's format (TensorFlow Lite): the same codes, scales and zero points.

Weights are int8 and symmetric with one scale for each channel, activations int8, biases int32. Codes of uint8 activations are
shifted by 128. What the ONNX file computes in float stays float, with DEQUANTIZE and QUANTIZE between. Inputs and outputs keep
their names, types and the order of their axes. A free batch becomes one of 1, which the interpreter can resize as long as the
graph keeps it on the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from dyncompress.deployment.constants import constant
from dyncompress.deployment.conversion import Converted
from dyncompress.deployment.conversion.comparison import as_defined, compare
from dyncompress.deployment.conversion.litert import composites, elementwise, movement, products, windows
from dyncompress.deployment.conversion.litert.graph import place, read, shape_of
from dyncompress.deployment.conversion.litert.interpreter import Interpreted
from dyncompress.deployment.conversion.litert.tensors import Stored
from dyncompress.deployment.conversion.litert.translation import TYPES, Translation, constant_value
from dyncompress.errors import Differs, Unsupported

MODEL = "model.tflite"
LARGEST_DIFFERENCE = 0.1  # of an output's largest value: roundings of integers add up to less than that
OPERATORS: Mapping[str, Callable[[Translation, ir.Node], None]] = {
    **elementwise.OPERATORS,
    **movement.OPERATORS,
    **composites.OPERATORS,
    "Conv": products.convolution,
    "ConvTranspose": products.transposed_convolution,
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
}


def convert(content: bytes, inputs: Mapping[str, np.ndarray] | None = None) -> Converted:
    """Convert an ONNX file, and compare both in their runtimes.

    Args:
        content: the bytes of the ONNX file, sealed or not.
        inputs: name -> array, on which both are compared; None: random ones.

    Returns:
        `model.tflite`, and a note with the difference.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file, or it doesn't run on the inputs.
        Unsupported: an operator that isn't translated, a free axis other than the batch, or ai-edge-litert isn't installed.
        Differs: the result computes something else than the file.
    """
    result = litert_file(content)
    session = as_defined(content)
    names = [value.name for value in session.get_outputs()]
    gap, unknown = compare(session, Interpreted(result, names), inputs)  # pyright: ignore[reportArgumentType]  (`run` is all it calls)
    if gap > LARGEST_DIFFERENCE:
        raise Differs(
            f"LiteRT's outputs differ from the ONNX file's by {gap:.0%} of the largest one, where roundings explain "
            f"{LARGEST_DIFFERENCE:.0%}; give inputs of the kind that the model was calibrated with, or report it."
        )
    return Converted(
        {MODEL: result}, (unknown or f"LiteRT's outputs differ from the ONNX file's by {gap:.2%} of the largest one.",)
    )


def litert_file(content: bytes) -> bytes:
    """The bytes of the LiteRT file of an ONNX file, not compared with it.

    Args:
        content: the bytes of the ONNX file, sealed or not.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file.
        Unsupported: an operator that isn't translated, a free axis other than the batch, or ai-edge-litert isn't installed.
    """
    graph, free_batch = read(content)
    state = Translation(frozenset(graph.outputs), free_batch)
    inputs = {value.name or "": _input(state, value) for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if node.op_type == "Constant" or node in state.done:
            continue
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise Unsupported(
                f"{place(node)}: this operator isn't translated to LiteRT; export the model without it, or run the ONNX file."
            )
        OPERATORS[node.op_type](state, node)
    results = {value.name or "": _output(state, value) for value in graph.outputs}
    return state.writer.content(inputs, results, "converted from ONNX by dyncompress")


def _input(state: Translation, value: ir.Value) -> int:
    """Add the tensor of an input."""
    dtype = "" if value.dtype is None else value.dtype.numpy().name
    if dtype not in TYPES or dtype == "int8":
        raise Unsupported(
            f"input '{value.name}' is {dtype or 'no tensor'}; give the model inputs of float32, int32, int64 or bool."
        )
    stored = state.stored[value] = Stored(shape_of(value), dtype)
    index = stored.tensors[stored.plain] = state.writer.tensor(stored.shape, dtype, None, value.name or "")
    return index


def _output(state: Translation, value: ir.Value) -> int:
    """The tensor of an output, in ONNX's order of axes."""
    array, codes = constant(value), state.codes.get(value)
    if codes is not None:  # a transposition of codes moves fewer bytes than one of floats
        return state.tensor(
            state.emit("DEQUANTIZE", [state.tensor(codes, codes.plain)], Stored(codes.shape, "float32"), codes.plain)
        )
    stored = state.value(value) if array is None else constant_value(array)
    if stored.quantization is not None:
        raise Unsupported(f"output '{value.name}' holds codes; dequantize it inside the graph, so that it is a float.")
    return state.tensor(stored, stored.plain)
