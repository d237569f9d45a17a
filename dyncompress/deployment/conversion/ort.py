"""onnxruntime's own format, for builds of onnxruntime that can't read ONNX files or hold few operators (minimal builds).

The graph is saved as onnxruntime optimizes it, so that products run on integer kernels in builds that optimize nothing. Layouts
that only some processors have are left out. The other way, in which a build optimizes the graph when it loads it, fails for
quantized files (onnxruntime 1.32: "the sum of input arg count is not equal to size of input defs").
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from dyncompress.coding.external import refuse_external
from dyncompress.deployment.conversion import Converted, Inputs
from dyncompress.deployment.conversion.comparison import compare
from dyncompress.deployment.seal import is_sealed, unseal
from dyncompress.deployment.session import PLAIN, load, options
from dyncompress.deployment.stripping import parse
from dyncompress.errors import Differs

MODEL = "model.ort"
SAME = 1e-5  # of an output's largest value


def convert(content: bytes, inputs: Inputs | None = None) -> Converted:
    """The file in the ORT format. Codes of fewer than 8 bits are unpacked to whole bytes in it.

    Args:
        content: the bytes of the ONNX file.
        inputs: name -> array `[n, ...]`, on which both files are compared; None: random ones.

    Returns:
        `model.ort`.

    Raises:
        InvalidRequest: the bytes aren't an ONNX file.
        Unsupported: onnxruntime can't load the file.
        Differs: the result computes something else than the file.
    """
    model = parse(content)
    refuse_external(content, "the ONNX file")
    signed, body = _has_signed_activations(model), unseal(content)[0] if is_sealed(content) else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        session_options = _options(signed)
        session_options.optimized_model_filepath = str(path)
        session_options.add_session_config_entry("session.save_model_format", "ORT")
        load(body, session_options)
        result = path.read_bytes()
    gap, unknown = compare(load(content, _options(signed)), load(result, _options(signed)), inputs)
    if gap > SAME:
        raise Differs(f"the file in the ORT format differs from the ONNX file by {gap:.2g} of the largest output; report it.")
    larger = len(result) > len(content)
    size = f"{len(result):,} bytes, and the ONNX file has {len(content):,}"
    why = ": the ORT format stores whole bytes and what the ONNX file computes when it is loaded." if larger else "."
    return Converted({MODEL: result}, tuple(filter(None, (f"{size}{why}", unknown))))


def _options(signed: bool) -> onnxruntime.SessionOptions:
    """Session options without layouts of x86, and with integer kernels for signed activations where the file has these."""
    session_options = options(PLAIN)
    session_options.add_session_config_entry("optimization.disable_specified_optimizers", "NchwcTransformer")
    if signed:
        session_options.add_session_config_entry("session.qdqisint8allowed", "1")
    return session_options


def _has_signed_activations(model: onnx.ModelProto) -> bool:
    """Whether a QuantizeLinear of the graph makes int8 codes."""
    signed = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    return any(node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in signed for node in model.graph.node)
