"""Files in other formats compute what the ONNX file computes, and what can't be converted is refused in one sentence."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dyncompress.deployment import ranges, seal, write
from dyncompress.deployment.conversion import CONVERSIONS, UNCERTIFIED, Converted, convert
from dyncompress.deployment.conversion.comparison import as_defined, difference, inputs_for, outputs
from dyncompress.deployment.conversion.fake_quantization import fake_quantized
from dyncompress.deployment.session import load, options
from dyncompress.errors import Altered, Differs, DyncompressError, InvalidRequest, Unsupported
from dyncompress.types import Target
from tests.deployment.graphs import FLOAT_TARGET, TARGET, encode, graph, images, residual, weight

SIGNED = replace(TARGET, activation_dtype="int8", activation_symmetric=True, weight_bits=(8,), folds_constants=False)


def integer(
    float_file: bytes, weights: dict[str, np.ndarray], inputs: dict, target: Target = TARGET, bits: int = 8, group: int = 0
) -> bytes:
    encodings = {name: (encode(array, bits, group), "as_is") for name, array in weights.items()}
    return write(float_file, encodings, ranges(float_file, [inputs]) if target.activation_dtype != "float32" else {}, target)


def network(**options: Any) -> bytes:
    """A convolutional network with sums, a Slice, a Pad and a Gemm."""
    return integer(*residual(4), images(16), **options)


def clipped() -> bytes:
    """Gemms behind a Clip at 6, a Relu, and a Clip at -1 and 1; `s` is read by a Gemm as codes, and by a Sigmoid as a float."""
    weights = {"a": weight(16, 8, seed=1), "b": weight(16, 16, seed=2), "c": weight(16, 16, seed=3), "d": weight(4, 16, seed=4)}
    ends = {"low": np.float32(0), "six": np.float32(6), "minus": np.float32(-1), "one": np.float32(1)}
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["p"], transB=1),
        helper.make_node("Clip", ["p", "low", "six"], ["q"]),
        helper.make_node("Gemm", ["q", "b"], ["r"], transB=1),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Gemm", ["s", "c"], ["t"], transB=1),
        helper.make_node("Clip", ["t", "minus", "one"], ["u"]),
        helper.make_node("Gemm", ["u", "d"], ["y"], transB=1),
        helper.make_node("Sigmoid", ["x"], ["z"]),
    ]
    float_file = graph(nodes, weights | ends, {"x": ["n", 8]}, {"y": ["n", 4], "z": ["n", 8]})
    return integer(float_file, weights, {"x": 6 * images(64, 8)["x"]})


def wide() -> bytes:
    """Products so wide that kernels for stored weights add up in another order than kernels for computed ones."""
    weights = {f"w{i}": weight(256, 256, seed=i) for i in range(3)}
    nodes = []
    for i in range(3):
        nodes.append(helper.make_node("Gemm", [f"r{i}" if i else "x", f"w{i}"], [f"g{i}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i + 1}"]))
    float_file = graph(nodes, weights, {"x": ["n", 256]}, {"r3": ["n", 256]})
    return integer(float_file, weights, images(16, 256), bits=3)


def transposed() -> bytes:
    """A product whose weight is decoded and then transposed, as other tools write it."""
    encoding = encode(weight(4, 8))
    nodes = [
        helper.make_node("DequantizeLinear", ["c", "s"], ["w"], axis=0),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    return graph(nodes, {"c": encoding.codes, "s": encoding.scale}, {"x": ["n", 8]}, {"y": ["n", 4]})


def table(bits: int = 8, group: int = 0, target: Target = FLOAT_TARGET) -> bytes:
    """Rows of an embedding table, and a product."""
    weights = {"rows": weight(20, 32, seed=1), "w": weight(8, 32, seed=2)}
    nodes = [helper.make_node("Gather", ["rows", "i"], ["e"]), helper.make_node("Gemm", ["e", "w"], ["y"], transB=1)]
    float_file = graph(nodes, weights, {"i": ["n"]}, {"y": ["n", 8]}, integers=("i",))
    return integer(float_file, weights, {"i": np.arange(20)}, target, bits, group)


FILES: dict[str, Callable[[], bytes]] = {
    "8 bits": network,
    "4 bits": lambda: network(bits=4),
    "3 bits": lambda: network(bits=3),
    "signed": lambda: network(target=SIGNED),
    "weights alone": lambda: network(target=FLOAT_TARGET),
    "clipped": clipped,
    "table": table,
    "wide": wide,
    "transposed": transposed,
    "blocks": lambda: table(4, 16),
}
every = pytest.mark.parametrize("name", FILES)


def run(content: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return outputs(as_defined(content), inputs)


def tried(content: bytes) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Inputs, and the outputs of the file on them."""
    inputs = {
        name: 3 * array if array.dtype == np.float32 else array for name, array in inputs_for(as_defined(content), None).items()
    }
    return inputs, run(content, inputs)


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


# ---------------------------------------------------------------- encodings
@every
def test_the_float_file_rounded_by_its_encodings_is_the_file_bit_for_bit(name: str) -> None:
    content = FILES[name]()
    files = convert(content, "encodings").files
    listed, float_file = json.loads(files["encodings.json"]), files["model.onnx"]
    onnx.checker.check_model(onnx.load_from_string(float_file), full_check=True)
    assert not operators(float_file).keys() & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    inputs, wanted = tried(content)
    for found, right in zip(run(fake_quantized(float_file, listed), inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, right)
    usual = inputs_for(as_defined(content), None)  # within the ranges
    assert difference(run(float_file, usual), run(content, usual)) < 0.1, "every Relu and Clip is there"


@every
def test_weights_of_the_float_file_lie_on_their_encodings(name: str) -> None:
    files = convert(FILES[name](), "encodings").files
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(files["model.onnx"]).graph.initializer}
    entries = json.loads(files["encodings.json"])["param_encodings"]
    assert len(entries) == {"table": 1, "blocks": 1, "transposed": 1, "weights alone": 6, "wide": 3, "clipped": 4}.get(name, 12)
    for entry in entries:
        assert {"name", "bw", "dtype", "enc_type", "is_sym", "scale", "offset"} <= entry.keys()
        array, scale = stored[entry["name"]], np.array(entry["scale"], np.float32)
        if entry["enc_type"] == "PER_BLOCK":
            scale = np.repeat(scale.reshape(len(array), -1), entry["block_size"], 1)
        elif entry["enc_type"] == "PER_CHANNEL":
            scale = scale.reshape(-1, *[1] * (array.ndim - 1)) if name != "transposed" else scale
        codes = np.rint(array.astype(np.float64) / scale)
        np.testing.assert_array_equal(codes.astype(np.float32) * scale, array)
        assert entry["is_sym"] and set(entry["offset"]) == {-(2 ** (entry["bw"] - 1))}
        assert np.abs(codes).max() < 2 ** (entry["bw"] - 1)


@pytest.mark.parametrize("name", ["table", "blocks"])
def test_rows_of_a_table_have_no_encoding_and_are_named(name: str) -> None:
    assert "can't express where their scales belong: " in convert(FILES[name](), "encodings").notes[-1]
    assert not any("can't express" in note for note in convert(network(), "encodings").notes)


def test_narrow_weights_have_narrow_encodings() -> None:
    def widths(content: bytes) -> set[int]:
        return {entry["bw"] for entry in json.loads(convert(content, "encodings").files["encodings.json"])["param_encodings"]}

    assert widths(network()) == {8, 32}  # biases have 32 bits
    assert widths(network(bits=4)) == widths(network(bits=3)) == {4, 32}


def test_what_rounding_to_a_grid_stood_for_is_a_node_again() -> None:
    assert operators(clipped())["Relu"] == operators(clipped())["Clip"] == 0
    found = operators(convert(clipped(), "encodings").files["model.onnx"])
    assert (found["Relu"], found["Clip"]) == (1, 2)


def test_a_value_that_another_node_reads_as_float_has_a_copy_with_the_encoding() -> None:
    files = convert(clipped(), "encodings").files
    model = onnx.load_from_string(files["model.onnx"])
    (copy,) = (node for node in model.graph.node if node.op_type == "Identity")
    assert list(copy.input) == ["x"]
    names = {entry["name"] for entry in json.loads(files["encodings.json"])["activation_encodings"]}
    assert copy.output[0] in names and "x" not in names


# ---------------------------------------------------------------- arrays
def rebuilt(arrays: dict[str, Any], described: dict[str, Any]) -> bytes:
    """An ONNX file from the arrays and the list of nodes alone."""
    nodes, constants = (
        [],
        {name: array for name, array in arrays.items() if not name.endswith((".codes", ".scale", ".zero_point"))},
    )
    for name, about in described["constants"].items():
        codes, scale, zero = (arrays[f"{name}.{word}"] for word in ("codes", "scale", "zero_point"))
        constants |= {f"{name}.c": codes, f"{name}.s": scale, f"{name}.z": zero}
        attributes = (
            {} if about["axis"] is None else {"axis": about["axis"]} | ({"block_size": about["block"]} if about["block"] else {})
        )
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.c", f"{name}.s", f"{name}.z"], [name], **attributes))
    for index, node in enumerate(described["nodes"]):
        inputs, attributes = list(node["inputs"]), dict(node["attributes"])
        if "dtype" in attributes:
            constants[f"{index}.s"] = np.array(attributes.pop("scale"), np.float32)
            constants[f"{index}.z"] = np.array(attributes.pop("zero_point"), attributes.pop("dtype"))
            inputs += [f"{index}.s", f"{index}.z"]
        nodes.append(helper.make_node(node["operator"], inputs, node["outputs"], **attributes))
    values = [
        [helper.make_tensor_value_info(v["name"], getattr(TensorProto, v["type"].upper()), v["shape"]) for v in described[word]]
        for word in ("inputs", "outputs")
    ]
    proto = helper.make_graph(nodes, "g", *values, [numpy_helper.from_array(array, name) for name, array in constants.items()])
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


@every
def test_the_arrays_hold_all_that_the_file_computes(name: str) -> None:
    content = FILES[name]()
    with np.load(io.BytesIO(convert(content, "arrays").files["model.npz"])) as archive:
        arrays = {key: archive[key] for key in archive.files}
    described = json.loads(arrays.pop("graph.json"))
    codes = [array for key, array in arrays.items() if key.endswith(".codes")]
    assert codes and {array.dtype.name for array in codes} <= {"int8", "int32"}
    inputs, wanted = tried(content)
    for found, right in zip(run(rebuilt(arrays, described), inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, right)


# ---------------------------------------------------------------- ORT format
@every
def test_the_ort_file_computes_what_the_file_computes(name: str) -> None:
    content = FILES[name]()
    result = convert(content, "ort")
    inputs, _ = tried(content)
    loaded = [load(one, options(TARGET)) for one in (content, result.files["model.ort"])]
    if name != "signed":  # whose integer kernels are for Arm: here the ONNX file runs in float
        found, right = (outputs(session, inputs) for session in reversed(loaded))
        assert difference(found, right) < 1e-5
    assert result.notes[0].startswith(f"{len(result.files['model.ort']):,} bytes, and the ONNX file has {len(content):,}")


@pytest.mark.parametrize("name", ["8 bits", "3 bits", "signed"])
def test_the_ort_file_holds_integer_kernels(name: str) -> None:
    assert b"QLinearConv" in convert(FILES[name](), "ort").files["model.ort"]


# ---------------------------------------------------------------- half precision
def test_a_float_file_in_half_precision_keeps_its_inputs_and_outputs() -> None:
    content, _ = residual(4)
    result = convert(content, "float16").files["model.onnx"]
    model = onnx.load_from_string(result)
    onnx.checker.check_model(model, full_check=True)
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    inputs, wanted = tried(content)
    assert 0 < difference(run(result, inputs), wanted) < 0.01
    assert len(result) < 0.7 * len(content)


def test_weights_that_are_stored_as_codes_become_halves() -> None:
    content = network(target=FLOAT_TARGET, bits=4)
    result = convert(content, "float16").files["model.onnx"]
    inputs, wanted = tried(content)
    assert not operators(result)["Mul"] and difference(run(result, inputs), wanted) < 0.01


def large(factor: float) -> bytes:
    """`tanh(w x * factor / factor)`: the product may exceed what half precision holds."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        helper.make_node("Mul", ["a", "factor"], ["b"]),
        helper.make_node("Div", ["b", "factor"], ["c"]),
        helper.make_node("Tanh", ["c"], ["y"]),
    ]
    return graph(nodes, {"w": weight(8, 8), "factor": np.float32(factor)}, {"x": ["n", 8]}, {"y": ["n", 8]})


def test_numbers_that_are_too_large_for_half_precision_stay_in_float32() -> None:
    content = large(50_000)
    result = convert(content, "float16")
    assert result.notes[0].startswith("2 nodes stay in float32") and "Mul_1, Div_2" in result.notes[0]
    inputs, wanted = tried(content)
    assert difference(run(result.files["model.onnx"], inputs), wanted) < 0.01
    assert "stay" not in convert(large(10), "float16").notes[0]


def test_a_network_that_half_precision_cannot_compute_is_refused() -> None:
    nodes = [helper.make_node("Add", ["x", "c"], ["a"]), helper.make_node("Sub", ["a", "c"], ["y"])]
    with pytest.raises(Differs, match=r"differ by .* % of the largest"):
        convert(graph(nodes, {"c": np.full(4, 20_000, np.float32)}, {"x": ["n", 4]}, {"y": ["n", 4]}), "float16")


# ---------------------------------------------------------------- what is refused
def operators_on_integers() -> bytes:
    weights = {"w": np.zeros((8, 4), np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    return graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]})


def elsewhere() -> bytes:
    model = onnx.load_from_string(residual(4)[0])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model.SerializeToString()


def branch() -> bytes:
    def body(name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(name, ["x"], [f"{name}_y"])], name, [], [value])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body("Relu"), else_branch=body("Neg")),
    ]
    return graph(nodes, {"zero": np.float32(0)}, {"x": ["n", 4]}, {"y": ["n", 4]})


@pytest.mark.parametrize(
    ("content", "to", "kind", "says"),
    [
        (network, "qnn", InvalidRequest, "there is no format 'qnn'; known: "),
        (network, "encoding", InvalidRequest, "did you mean 'encodings'?"),
        *((lambda: b"no model", to, InvalidRequest, "aren't an ONNX file") for to in ("encodings", "arrays", "ort", "float16")),
        *((elsewhere, to, InvalidRequest, "weights.bin") for to in ("encodings", "arrays", "ort", "float16")),
        (lambda: residual(4)[0], "encodings", InvalidRequest, "no quantized weights or activations"),
        (operators_on_integers, "encodings", Unsupported, "node 'q' is a DynamicQuantizeLinear"),
        (operators_on_integers, "float16", Unsupported, "quantizes activations"),
        (network, "float16", Unsupported, "quantizes activations"),
        (branch, "arrays", Unsupported, "node 'y' (If) has a branch or a loop body"),
        (lambda: seal(network(), {"statement": "a"})[1:], "ort", Altered, "was changed"),
        (lambda: seal(network(), {"statement": "a"}).replace(b"sha256", b"sha257", 1), "ort", Altered, "was changed"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_sentence(
    content: Callable[[], bytes], to: str, kind: type[DyncompressError], says: str
) -> None:
    with pytest.raises(kind) as told:
        convert(content(), to)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("to", ["encodings", "arrays", "ort"])
def test_a_certified_file_is_told_from_its_conversion(to: str) -> None:
    content = seal(network(), {"statement": "At most 1 % more errors."})
    assert UNCERTIFIED in convert(content, to).notes
    assert UNCERTIFIED not in convert(network(), to).notes
    assert b"At most 1 %" not in b"".join(convert(content, to).files.values())


def test_given_inputs_are_used_and_wrong_ones_refused() -> None:
    content = network()
    assert convert(content, "encodings", images(3)).files
    with pytest.raises(InvalidRequest, match=r"inputs \['x'\], got \['z'\]"):
        convert(content, "encodings", {"z": images(3)["x"]})
    with pytest.raises(InvalidRequest, match="doesn't run on these inputs"):
        convert(content, "encodings", images(3, 4, 16, 16))


def test_a_file_that_runs_on_no_random_inputs_is_converted_with_a_note() -> None:
    weights = {"w": weight(8, 5)}
    nodes = [helper.make_node("Reshape", ["x", "five"], ["r"]), helper.make_node("Gemm", ["r", "w"], ["y"], transB=1)]
    float_file = graph(nodes, weights | {"five": np.array([-1, 5])}, {"x": ["n", "m"]}, {"y": ["k", 8]})
    content = integer(float_file, weights, images(5, 3), FLOAT_TARGET)
    for to in ("encodings", "ort", "float16"):
        assert "wasn't compared" in convert(content, to).notes[-1]
        assert "wasn't compared" not in " ".join(convert(content, to, images(5, 3)).notes)


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("to", CONVERSIONS)
def test_every_format_is_described(to: str) -> None:
    entry = CONVERSIONS[to]
    assert entry.summary and entry.suffix in ("", *(f".{word}" for word in ("npz", "ort", "onnx", "tflite")))


def test_files_are_saved_all_or_not_at_all(tmp_path: Any) -> None:
    several, one = Converted({"a": b"1", "b": b"2"}), Converted({"model.ort": b"3"}, (), ".ort")
    assert [path.read_bytes() for path in several.save(tmp_path / "new" / "folder")] == [b"1", b"2"]
    assert one.save(tmp_path / "small.ort")[0].read_bytes() == b"3"
    with pytest.raises(InvalidRequest, match="is a file"):
        several.save(tmp_path / "small.ort")
    with pytest.raises(InvalidRequest, match="is a directory"):
        one.save(tmp_path / "new")
