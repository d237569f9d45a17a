from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper

from dyncompress.deployment import Session, audit, check, ranges, write
from dyncompress.deployment.fusion import optimized_model
from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.types import Encoding, Target
from tests.deployment.graphs import FLOAT_TARGET, TARGET, encode, error, graph, images, residual, values, weight

SIGNED = replace(TARGET, activation_dtype="int8", session={"session.qdqisint8allowed": "1"})
SYMMETRIC = replace(TARGET, activation_dtype="int8", activation_symmetric=True)


def integer_file(
    float_file: bytes, weights: dict, inputs: dict, target: Target = TARGET, bits: int = 8, layout: str = "as_is"
) -> bytes:
    encodings = {name: (encode(w, bits), layout) for name, w in weights.items()}
    body = write(float_file, encodings, ranges(float_file, [inputs]), target)
    check(body)
    return body


def conv_net(op: str, w: np.ndarray, rank: int = 2, **attributes: Any) -> bytes:
    nodes = [helper.make_node(op, ["x", "w", "b"], ["c"], **attributes), helper.make_node("Relu", ["c"], ["y"])]
    groups = int(attributes.get("group", 1))
    out, fan = (w.shape[1] * groups, w.shape[0]) if op == "ConvTranspose" else (w.shape[0], w.shape[1] * groups)
    sides = ["s", "t", "u"][:rank]
    bias = np.linspace(-0.1, 0.1, out, dtype=np.float32)
    return graph(nodes, {"w": w, "b": bias}, {"x": ["n", fan, *sides]}, {"y": ["n", out, *[s + "2" for s in sides]]})


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_residual_network_is_all_on_integer_kernels(bits: int) -> None:
    float_file, weights = residual()
    body = integer_file(float_file, weights, images(32), bits=bits)
    assert audit(body, TARGET) == {"Conv": (5, 5), "Gemm": (1, 1), "Add": (2, 2)}
    left = {node.op_type for node in optimized_model(body, TARGET).graph.node}
    assert not left & {"DequantizeLinear", "Relu", "Cast", "BitShift", "Conv", "Gemm"}


@pytest.mark.parametrize("target", [TARGET, SIGNED, SYMMETRIC, FLOAT_TARGET], ids=["u8", "s8", "symmetric", "float"])
def test_outputs_stay_close_to_the_float_graph_of_the_same_weights(target: Target) -> None:
    float_file, weights = residual()
    model = onnx.load_from_string(float_file)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values(encode(weights[tensor.name])), tensor.name))
    body = integer_file(float_file, weights, images(64), target)
    x = images(16, seed=1)
    wanted = Session(model.SerializeToString(), TARGET).run(x)[0]
    assert error(Session(body, target).run(x)[0], wanted) < (1e-5 if target is FLOAT_TARGET else 0.05)


def test_the_reference_implementation_of_onnx_computes_the_same() -> None:
    float_file, weights = residual(4)
    body = integer_file(float_file, weights, images(16), bits=4)
    x = images(2, seed=3)
    outputs: Any = onnx.reference.ReferenceEvaluator(onnx.load_from_string(body)).run(None, x)
    wanted = outputs[0]
    assert error(Session(body, TARGET).run(x)[0], wanted) < 0.03  # fused kernels round once where the graph rounds twice


def test_only_integers_are_stored_and_names_are_short() -> None:
    float_file, weights = residual()
    model = onnx.load_from_string(integer_file(float_file, weights, images(8)))
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(t.dims)) for t in floats) == 16  # scales
    inner = {name for node in model.graph.node for name in (*node.input, *node.output)} - {"x", "y"}
    assert max(map(len, inner)) <= 2 and not model.graph.value_info and not model.doc_string
    scalars = [t.raw_data for t in model.graph.initializer if not t.dims and t.data_type == onnx.TensorProto.UINT8]
    assert len(scalars) == len(set(scalars))
    assert (model.opset_import[0].version, model.ir_version) == (TARGET.opset, TARGET.ir_version)


def test_writing_twice_gives_the_same_bytes_and_changes_no_argument() -> None:
    float_file, weights = residual()
    encodings = {name: (encode(w, 3), "as_is") for name, w in weights.items()}
    before = {name: e.codes.copy() for name, (e, _) in encodings.items()}
    seen = ranges(float_file, [images(8)])
    assert write(float_file, encodings, seen, TARGET) == write(float_file, encodings, seen, TARGET)
    assert all(np.array_equal(before[name], e.codes) for name, (e, _) in encodings.items())


CONVOLUTIONS = {
    "conv1d": ("Conv", weight(8, 4, 3), 1, {"pads": [1, 1]}),
    "conv3d": ("Conv", weight(8, 4, 3, 3, 3), 3, {"pads": [1] * 6}),
    "depthwise": ("Conv", weight(8, 1, 3, 3), 2, {"pads": [1] * 4, "group": 8}),
    "grouped": ("Conv", weight(8, 4, 3, 3), 2, {"pads": [1] * 4, "group": 2}),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_kind_of_convolution_is_on_an_integer_kernel(kind: str) -> None:
    op, w, rank, attributes = CONVOLUTIONS[kind]
    float_file = conv_net(op, w, rank, **attributes)
    x = images(8, w.shape[1] * attributes.get("group", 1), *[6] * rank)
    body = integer_file(float_file, {"w": w}, x)
    assert audit(body, TARGET) == {"Conv": (1, 1)}
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.02


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bits", [4, 8])
def test_transposed_convolutions_store_integers_and_compute_their_exact_values(groups: int, bits: int) -> None:
    canonical = weight(6, 4 // groups, 3, 3)  # (out, in / groups, *k)
    encoding = encode(canonical, bits)
    exact = values(encoding)
    blocks = exact.reshape(groups, 6 // groups, 4 // groups, 3, 3)
    stored = np.concatenate([block.swapaxes(0, 1) for block in blocks])  # (in, out / groups, *k), written plainly
    float_file = conv_net("ConvTranspose", np.ascontiguousarray(stored), group=groups)
    body = write(float_file, {"w": (encoding, "conv_transpose")}, {}, TARGET)
    check(body)
    x = images(4, 4, 5, 5)
    np.testing.assert_allclose(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0], rtol=1e-5, atol=1e-6)
    assert not any(
        t.data_type == onnx.TensorProto.FLOAT and len(t.raw_data) > 24 for t in onnx.load_from_string(body).graph.initializer
    )


def test_scales_by_groups_of_inputs_are_exact_for_products_and_convolutions() -> None:
    w = weight(6, 4, 3, 3)
    encoding = encode(w, 4, group=12)
    float_file = conv_net("Conv", values(encoding))
    x = images(4, 4, 6, 6)
    body = write(float_file, {"w": (encoding, "as_is")}, ranges(float_file, [x]), TARGET)
    np.testing.assert_allclose(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0], rtol=1e-5, atol=1e-6)
    product = encode(weight(16, 64), 8, group=32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    flat = graph(nodes, {"w": np.ascontiguousarray(values(product).T)}, {"x": ["n", 64]}, {"y": ["n", 16]})
    body = write(flat, {"w": (product, "transposed")}, {}, FLOAT_TARGET)
    x = images(4, 64)
    np.testing.assert_allclose(Session(body, FLOAT_TARGET).run(x)[0], Session(flat, TARGET).run(x)[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(Unsupported, match="groups of 5"):
        broken = Encoding(encoding.codes, np.ones((6, 8), np.float32), 4, 5)
        write(float_file, {"w": (broken, "as_is")}, {}, TARGET)


@pytest.mark.parametrize(("op", "layout"), [("MatMul", "transposed"), ("Gemm", "transposed"), ("Gemm", "as_is")])
def test_products_run_on_integers_with_a_float_result(op: str, layout: str) -> None:
    w = weight(70, 64)  # more than 64 rows: the zero points are expanded
    stored = w if layout == "as_is" else np.ascontiguousarray(w.T)
    attributes: dict[str, Any] = {"transB": 1} if layout == "as_is" else {}
    bias = [] if op == "MatMul" else ["b"]
    nodes = [helper.make_node(op, ["x", "w", *bias], ["y"], **attributes)]
    float_file = graph(nodes, {"w": stored, "b": weight(70, 1)[:, 0]}, {"x": ["n", 64]}, {"y": ["n", 70]})
    x = images(32, 64)
    body = integer_file(float_file, {"w": w}, x, layout=layout)
    assert audit(body, TARGET) == {op: (1, 1)}
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.02


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_embeddings_gather_integer_rows_before_they_become_float(bits: int) -> None:
    table = weight(50, 12)
    encoding = encode(table, bits)
    nodes = [helper.make_node("Gather", ["w", "i"], ["y"])]
    float_file = graph(nodes, {"w": values(encoding)}, {"i": ["n", "t"]}, {"y": ["n", "t", 12]}, integers=("i",))
    body = write(float_file, {"w": (encoding, "as_is")}, {}, TARGET)
    check(body)
    index = {"i": np.random.default_rng(0).integers(0, 50, (3, 7))}
    assert np.array_equal(Session(body, TARGET).run(index)[0], values(encoding)[index["i"]])
    kept = optimized_model(body, TARGET).graph
    assert max(t.data_type != onnx.TensorProto.INT8 and len(t.raw_data) for t in kept.initializer) <= 200  # no float table


def test_a_table_that_is_also_the_output_layer_is_stored_once() -> None:
    table = weight(300, 32)
    nodes = [
        helper.make_node("Gather", ["w", "i"], ["e"]),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "wt"], ["y"]),
    ]
    encoding = encode(table)
    float_file = graph(nodes, {"w": values(encoding)}, {"i": ["n", "t"]}, {"y": ["n", "t", 300]}, integers=("i",))
    body = write(float_file, {"w": (encoding, "as_is")}, {}, TARGET)
    index = {"i": np.arange(12).reshape(2, 6)}
    np.testing.assert_allclose(
        Session(body, TARGET).run(index)[0], Session(float_file, TARGET).run(index)[0], rtol=1e-4, atol=1e-5
    )
    assert len(body) < table.size + 8 * 300


def test_recurrent_weights_are_stored_as_integers_and_computed_exactly() -> None:
    w, r = encode(weight(24, 5), 4), encode(weight(24, 8), 4)
    nodes = [helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=8)]
    float_file = graph(nodes, {"w": values(w)[None], "r": values(r)[None]}, {"x": [6, "n", 5]}, {"y": [6, 1, "n", 8]})
    body = write(float_file, {"w": (w, "as_is"), "r": (r, "as_is")}, {}, TARGET)
    x = images(6, 3, 5)
    np.testing.assert_allclose(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0], rtol=1e-5, atol=1e-6)
    assert not any(
        t.data_type == onnx.TensorProto.FLOAT and len(t.raw_data) > 96 for t in onnx.load_from_string(body).graph.initializer
    )


def test_moving_nodes_carry_codes_and_concat_and_pools_are_integer() -> None:
    w = weight(4, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("GlobalAveragePool", ["t"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    weights = {"w": w, "v": weight(4, 3, 1, 1, seed=5)}
    float_file = graph(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 8]})
    x = images(16, 3, 8, 8)
    body = integer_file(float_file, weights, x)
    ops = [node.op_type for node in optimized_model(body, TARGET).graph.node]
    assert {"QLinearConcat", "QLinearGlobalAveragePool"} <= set(ops) and ops.count("DequantizeLinear") == 1
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.1


def test_clip_and_relu_are_removed_only_where_the_grid_clips_at_their_limits() -> None:
    w = weight(8, 3, 1, 1) * 3
    low, high = np.float32(0), np.float32(6)
    for ceiling, kept in (((low, high), 0), ((np.float32(-1), np.float32(1)), 0), ((np.float32(0.5), high), 1)):
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "lo", "hi"], ["y"])]
        float_file = graph(nodes, {"w": w, "lo": ceiling[0], "hi": ceiling[1]}, {"x": ["n", 3, 6, 6]}, {"y": ["n", 8, 6, 6]})
        x = images(64, 3, 6, 6)
        body = integer_file(float_file, {"w": w}, x)
        model = onnx.load_from_string(body)
        assert sum(node.op_type == "Clip" for node in model.graph.node) == kept
        assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.02


def test_a_channel_of_zeros_keeps_a_precise_bias_and_one_of_tiny_weights_stays_float() -> None:
    w = weight(4, 3, 1, 1)
    w[1] = 0
    bias = np.array([0.1, 0.7654321, -0.2, 0.3], np.float32)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    x = images(16, 3, 6, 6)
    float_file = graph(nodes, {"w": w, "b": bias}, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]})
    body = integer_file(float_file, {"w": w}, x)
    assert audit(body, TARGET) == {"Conv": (1, 1)}
    out = Session(body, TARGET).run(x)[0]
    step = np.ptp(Session(float_file, TARGET).run(x)[0]) / 255
    assert np.abs(out[:, 1] - bias[1]).max() <= 0.51 * step
    w[1] = 1e-13
    float_file = graph(nodes, {"w": w, "b": bias}, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 6, 6]})
    body = integer_file(float_file, {"w": w}, x)
    assert audit(body, TARGET) == {"Conv": (0, 1)}
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.01


def test_layers_without_encoding_stay_float_between_integer_ones() -> None:
    float_file, weights = residual()
    del weights["a2"]
    body = integer_file(float_file, weights, images(16))
    assert audit(body, TARGET)["Conv"] == (4, 5)
    x = images(8, seed=2)
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.05


def test_a_float_reader_of_a_copied_value_reads_the_float_value() -> None:
    w = weight(6, 6)
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["m"]),
        helper.make_node("Add", ["m", "t"], ["y"]),
    ]
    float_file = graph(nodes, {"w": np.zeros_like(w)}, {"x": ["n", 6]}, {"y": ["n", 6]})
    codes = Encoding(np.zeros((6, 6), np.int8), np.ones(6, np.float32), 8)
    x = images(8, 6)
    body = write(float_file, {"w": (codes, "transposed")}, ranges(float_file, [x]), TARGET)
    np.testing.assert_allclose(Session(body, TARGET).run(x)[0], np.tanh(x["x"]), rtol=1e-6)


def test_a_file_to_be_packed_holds_rare_codes_as_bytes_and_each_scale_once() -> None:
    float_file, weights = residual()
    weights = {name: np.where(np.abs(w) < np.quantile(np.abs(w), 0.9), 0, w).astype(np.float32) for name, w in weights.items()}
    small = onnx.load_from_string(integer_file(float_file, weights, images(8), TARGET))
    whole = onnx.load_from_string(integer_file(float_file, weights, images(8), replace(TARGET, weight_bits=(8,))))
    assert {node.op_type for node in small.graph.node} - {node.op_type for node in whole.graph.node} == {"x"}
    assert sum(node.op_type == "Mul" for node in whole.graph.node) == len(weights)  # scales of biases are computed at load
    stored = [tensor for tensor in whole.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1]
    assert sorted(list(tensor.dims) for tensor in stored) == sorted(list(w.shape) for w in weights.values())


def test_initializers_lie_in_the_order_of_their_readers() -> None:
    float_file, weights = residual()
    graph = onnx.load_from_string(integer_file(float_file, weights, images(8), TARGET)).graph
    read = list(dict.fromkeys(name for node in graph.node for name in node.input))
    names = [tensor.name for tensor in graph.initializer]
    assert names == [name for name in read if name in names]


def test_a_target_that_folds_no_constants_gets_plain_bytes_and_a_fixed_batch() -> None:
    generic = replace(SYMMETRIC, weight_bits=(8,), folds_constants=False, static_shapes=True)
    float_file, weights = residual()
    weights = {name: np.where(np.abs(w) < np.quantile(np.abs(w), 0.9), 0, w).astype(np.float32) for name, w in weights.items()}
    model = onnx.load_from_string(integer_file(float_file, weights, images(8), generic))
    assert not model.functions and not {node.op_type for node in model.graph.node} & {"Mul", "Cast", "Expand"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert Session(model.SerializeToString(), generic).run(images(5))[0].shape == (5, 5)


def test_invalid_requests_are_refused() -> None:
    float_file, weights = residual()
    good = {name: (encode(w), "as_is") for name, w in weights.items()}
    stem = good["stem"][0]
    cases = [
        ({"nothing": good["stem"]}, TARGET, InvalidRequest, "no initializer"),
        ({"a1": good["stem"]}, TARGET, InvalidRequest, "its codes are"),
        ({"stem": (replace(stem, bits=4), "as_is")}, TARGET, InvalidRequest, "4 bits hold -8 to 7"),
        ({"stem": (replace(stem, bits=9), "as_is")}, replace(TARGET, weight_bits=(9,)), InvalidRequest, "2 to 8"),
        ({"stem": (replace(stem, scale=-stem.scale), "as_is")}, TARGET, InvalidRequest, "positive"),
        ({"stem": (replace(stem, scale=stem.scale[:2]), "as_is")}, TARGET, InvalidRequest, "scales"),
        ({"stem": (stem, "sideways")}, TARGET, Unsupported, "sideways"),
        (good, replace(TARGET, weight_bits=(4,)), Unsupported, "takes"),
        (good, replace(TARGET, reduce_range=True), InvalidRequest, "7-bit"),
    ]
    for encodings, target, kind, words in cases:
        with pytest.raises(kind, match=words):
            write(float_file, encodings, {}, target)
    with pytest.raises(InvalidRequest, match="finite"):
        write(float_file, good, {"x": (0.0, float("nan"))}, TARGET)
    with pytest.raises(InvalidRequest, match="aren't an ONNX file"):
        write(b"not onnx", good, {}, TARGET)


def test_a_graph_newer_than_the_target_is_converted_where_its_operators_allow() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    for operator, fits in (("Relu", True), ("Swish", False)):
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
        newer = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11).SerializeToString()
        if fits:
            body = write(newer, {}, {}, TARGET)
            assert onnx.ModelProto.FromString(body).opset_import[0].version == TARGET.opset
        else:
            with pytest.raises(Unsupported, match=f"opset {TARGET.opset}"):
                write(newer, {}, {}, TARGET)
