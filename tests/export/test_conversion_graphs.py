"""Graphs as other tools write them, and graphs at the limits of a format: outputs that are quantized, odd grids, odd weights."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dyncompress.deployment.conversion import convert
from dyncompress.deployment.conversion import encodings as of_encodings
from dyncompress.deployment.conversion.comparison import as_defined, difference, inputs_for, outputs
from dyncompress.deployment.conversion.fake_quantization import fake_quantized
from dyncompress.deployment.conversion.plain_graph import plain_model
from dyncompress.deployment.conversion.stored_codes import stored_codes
from dyncompress.errors import Differs, InvalidRequest, Unsupported

GRIDS = "float s = {0.1}, uint8 z = {128}, float s2 = {0.2}, int8 i = {0}"


def model(body: str, constants: str = "", inputs: str = "float[n,4] x", results: str = "float[n,4] y") -> bytes:
    """A file from ONNX's own text form."""
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    text = f"{head} g ({inputs}) => ({results}) <{GRIDS}{', ' if constants else ''}{constants}> {{ {body} }}"
    return onnx.parser.parse_model(text).SerializeToString()


def encoded(content: bytes) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The float model and its encodings, which give the file's outputs bit for bit."""
    files = convert(content, "encodings").files
    listed = json.loads(files["encodings.json"])
    inputs = {name: 9 * array for name, array in inputs_for(as_defined(content), None).items()}
    found = outputs(as_defined(fake_quantized(files["model.onnx"], listed)), inputs)
    for value, right in zip(found, outputs(as_defined(content), inputs), strict=True):
        np.testing.assert_array_equal(value, right)
    return onnx.load_from_string(files["model.onnx"]), listed


Q, DQ = "q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, z)"


def test_outputs_that_are_quantized_keep_their_names() -> None:
    float_model, listed = encoded(
        model(
            f"{Q} {DQ} w = DequantizeLinear(q, s, z) r = Relu(w) p = QuantizeLinear(r, s2, i) t = Transpose <perm = [1, 0]> (p) "
            "v = DequantizeLinear(t, s2, i)",
            results="float[n,4] y, float[n,4] r, float[4,n] v",
        )
    )
    assert [value.name for value in float_model.graph.output] == ["y", "r", "v"]
    assert [entry["offset"] for entry in listed["activation_encodings"]] == [[-128], [-128]]
    assert listed["activation_encodings"][0]["name"] == "x"


def test_an_output_of_a_product_is_rounded_under_its_own_name() -> None:
    _, listed = encoded(
        model(
            "m = MatMul(x, w) q = QuantizeLinear(m, s, z) y = DequantizeLinear(q, s, z)",
            "float[4,4] w = {" + ",".join(["0.5"] * 16) + "}",
        )
    )
    assert [entry["name"] for entry in listed["activation_encodings"]] == ["y"]


def test_one_value_may_be_rounded_to_two_grids() -> None:
    float_model, listed = encoded(
        model(
            "a = QuantizeLinear(x, s, z) b = QuantizeLinear(x, s2, z) c = DequantizeLinear(a, s, z) "
            "d = DequantizeLinear(b, s2, z) y = Add(c, d)"
        )
    )
    assert len({entry["name"] for entry in listed["activation_encodings"]}) == 2
    assert [node.op_type for node in float_model.graph.node] == ["Identity", "Identity", "Add"]


def test_codes_of_16_bits_and_of_unsigned_weights_are_listed() -> None:
    body = "q = QuantizeLinear(x, s, h) d = DequantizeLinear(q, s, h) w = DequantizeLinear(c, s, z) m = MatMul(d, w) y = Relu(m)"
    codes = "uint8[4,4] c = {" + ",".join(map(str, range(100, 116))) + "}, int16 h = {5}"
    _, listed = encoded(model(body, codes))
    (activation,), (weight,) = listed["activation_encodings"], listed["param_encodings"]
    assert (activation["bw"], activation["offset"], activation["is_sym"]) == (16, [-(2**15) - 5], False)
    assert (weight["bw"], weight["offset"], weight["is_sym"]) == (8, [-128], True)


def test_stored_4_bit_codes_are_read() -> None:
    codes = onnx.helper.make_tensor("c", onnx.TensorProto.INT4, [4, 4], list(range(-8, 8)))
    whole = onnx.load_from_string(
        model("w = DequantizeLinear <axis = 1> (c, v) y = MatMul(x, w)", "int8[4,4] c, float[4] v = {1,2,3,4}")
    )
    kept = [tensor for tensor in whole.graph.initializer if tensor.name != "c"]
    del whole.graph.initializer[:]
    whole.graph.initializer.extend([*kept, codes])
    _, listed = encoded(whole.SerializeToString())
    assert [(entry["bw"], entry["scale"]) for entry in listed["param_encodings"]] == [(4, [1, 2, 3, 4])]


@pytest.mark.parametrize(
    ("body", "constants", "says"),
    [
        (f"{Q} {DQ} y2 = Cast <to = 1> (q)", "", r"node 'y2' \(Cast\) reads the codes 'q'"),
        (f"{Q} y = DequantizeLinear(q, s2, z)", "", "has another grid than the codes"),
        ("t = Abs(s) q = QuantizeLinear(x, t, z) y = DequantizeLinear(q, t, z)", "", None),
        (
            "t = ReduceMax <keepdims = 0> (x) q = QuantizeLinear(x, t, z) y = DequantizeLinear(q, t, z)",
            "",
            "no single constant float32 scale",
        ),
        (
            "q = QuantizeLinear(x, v, k) y = DequantizeLinear(q, v, k)",
            "float[4] v = {1,2,3,4}, int8[4] k = {0,0,0,0}",
            "no single constant",
        ),
        (
            f"{Q} p = Pad(q, a, o) c = Slice(p, b, e) y = DequantizeLinear(c, s, z)",
            "int64[4] a = {1,0,0,0}, uint8 o = {9}, int64[1] b = {0}, int64[1] e = {4}",
            "fills with another code",
        ),
    ],
)
def test_odd_grids_are_refused(body: str, constants: str, says: str | None) -> None:
    content = model(body, constants)
    if says is None:  # the scale is computed from constants, and so it is one
        encoded(content)
        return
    with pytest.raises(Unsupported, match=says):
        convert(content, "encodings")


def test_codes_as_an_output_are_refused() -> None:
    with pytest.raises(Unsupported, match="the caller of the file reads the codes 'q'"):
        convert(model(f"{Q} {DQ}", results="float[n,4] y, uint8[n,4] q"), "encodings")


def test_a_float_file_that_computes_something_else_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(content: bytes, listed: dict[str, Any]) -> bytes:
        entries = [{**entry, "scale": [2 * entry["scale"][0]]} for entry in listed["activation_encodings"]]
        return fake_quantized(content, {**listed, "activation_encodings": entries})

    monkeypatch.setattr(of_encodings, "fake_quantized", off)
    with pytest.raises(Differs, match="differs from the file by"):
        convert(model(f"{Q} {DQ}"), "encodings")


def test_arrays_list_attributes_and_computed_scales_are_refused() -> None:
    content = model(
        "c = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () k = ConstantOfShape <value = float[1] {2.0}> (h) a = Add(x, k) "
        "y = Add(a, c)",
        "",
        "float[n,4] x, int64[1] h",
    )
    with np.load(io.BytesIO(convert(content, "arrays").files["model.npz"])) as arrays:
        nodes = json.loads(arrays["graph.json"])["nodes"]
    assert nodes[0] == {"operator": "ConstantOfShape", "inputs": ["h"], "outputs": ["k"], "attributes": {"value": [2.0]}}
    with pytest.raises(Unsupported, match="computes its scale"):
        convert(model("t = ReduceMax <keepdims = 0> (x) q = QuantizeLinear(x, t, z) y = DequantizeLinear(q, t, z)"), "arrays")


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("f = Cast <to = 1> (c) y = Mul(x, f)", "int8[4] c = {1,2,3,4}"),  # the factor isn't stored
        ("f = Cast <to = 1> (c) w = Mul(f, v) y = MatMul(x, w)", "int64[4,4] c = {" + ",".join(["1"] * 16) + "}, float v = {2}"),
        (
            "f = Cast <to = 1> (c) w = Mul(f, v) y = MatMul(x, w)",
            "int8[4,4] c = {" + ",".join(["1"] * 16) + "}, float[4,4] v = {" + ",".join(["2"] * 16) + "}",
        ),
        (
            "f = Cast <to = 1> (c) m = Mul(f, v) w = Reshape(m, k) y = MatMul(x, w)",
            "int8[2,2,4] c = {" + ",".join(["1"] * 16) + "}, float[2,2,4] v = {" + ",".join(["2"] * 16) + "}, int64[2] k = {4,4}",
        ),
    ],
    ids=["product of an input", "integers that are no codes", "a scale for every code", "groups on two axes"],
)
def test_what_looks_like_codes_and_is_none_stays_as_it_is(body: str, constants: str) -> None:
    content = model(body, constants)
    assert not stored_codes(ir.serde.deserialize_model(plain_model(content)).graph)
    with pytest.raises(InvalidRequest, match="no quantized weights"):
        convert(content, "encodings")


def test_a_weight_with_a_computed_scale_is_refused() -> None:
    codes = "int8[4,4] c = {" + ",".join(["1"] * 16) + "}"
    body = "unread = QuantizeLinear(x, s, z) t = ReduceMax <keepdims = 0> (x) w = DequantizeLinear(c, t, i) y = MatMul(x, w)"
    with pytest.raises(Unsupported, match=r"node 'w' \(DequantizeLinear\) computes its scale"):
        convert(model(body, codes), "encodings")


def test_blocks_along_the_first_axis_are_found() -> None:
    """A matrix `[in, out]` whose scales are for groups of inputs, as a MatMul reads it."""
    codes = ",".join(str(n) for n in range(16))
    content = model(
        "f = Cast <to = 1> (c) m = Mul(f, v) w = Reshape(m, k) y = MatMul(x, w)",
        "int8[2,2,4] c = {" + codes + "}, float[2,1,4] v = {" + ",".join(map(str, range(1, 9))) + "}, int64[2] k = {4,4}",
    )
    (stored,) = stored_codes(ir.serde.deserialize_model(plain_model(content)).graph).values()
    assert (stored.axis, stored.block) == (0, 2)
    np.testing.assert_array_equal(stored.values[:, 0], [0 * 1, 4 * 1, 8 * 5, 12 * 5])
    encoded(content)


def test_half_precision_is_for_files_with_floats() -> None:
    with pytest.raises(InvalidRequest, match="stores no float32 weights"):
        convert(
            onnx.parser.parse_model(
                '<ir_version: 10, opset_import: ["" : 21]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
            ).SerializeToString(),
            "float16",
        )
    with pytest.raises(InvalidRequest, match="has inputs"):
        convert(model("y = Mul(x, s)"), "float16", {"other": np.zeros((2, 4), np.float32)})


def test_outputs_of_other_shapes_or_infinite_ones_differ_without_limit() -> None:
    one = np.ones((2, 2))
    assert difference([one], [one[:1]]) == difference([one * np.inf], [one]) == difference([one * np.nan], [one]) == np.inf
    assert difference([one * np.nan], [one * np.nan]) == difference([], []) == 0


def test_a_file_of_texts_is_converted_with_a_note() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (string[n] t, float[n] x) => (float[n] y) <float s = {2}> '
    content = onnx.parser.parse_model(text + "{ u = Identity(t) y = Mul(x, s) }").SerializeToString()
    assert "no random values can be made" in convert(content, "ort").notes[-1]
