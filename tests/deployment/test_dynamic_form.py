"""Products and LSTMs whose activations are quantized at run time: exact codes, right outputs, and which nodes stay in float."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from dyncompress.deployment import Calibration, Comparison, Session, audit, check, check_file, integer_file, integer_form, write
from dyncompress.deployment.fusion import optimized_model
from dyncompress.deployment.session import open_session
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.toml_files import load_target
from dyncompress.types import Encoding, Target
from tests.deployment.graphs import encode, error, graph, images, values, weight

TARGET = load_target("onnxruntime-transformer-dynamic")
ANYWHERE = replace(TARGET, processor_flags=())  # nothing is timed
NODE = helper.make_node


def coded(w: np.ndarray, bits: int = 7, group: int = 0) -> Encoding:
    return replace(encode(w, bits, group), bits=8 if bits == 7 else bits)


def at_run_time(x: np.ndarray, encoding: Encoding) -> np.ndarray:
    """`x @ W.T` with x on the grid of DynamicQuantizeLinear, computed in integers."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / step), 0, 255)
    codes = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int64) - int(zero)
    return (codes @ encoding.codes.T.astype(np.int64)).astype(np.float32) * (step * encoding.scale)


def operators(body: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(body).graph.node)


def initializers(body: bytes) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(body).graph.initializer]


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "transposed Gemm"])
@pytest.mark.parametrize("bits", [7, 4, 3])
def test_a_product_is_that_of_the_codes_with_the_grid_of_the_run(op: str, bits: int) -> None:
    encoding, bias = coded(weight(13, 7), bits), weight(13, 1)[:, 0]
    stored = values(encoding) if op == "transposed Gemm" else np.ascontiguousarray(values(encoding).T)
    if op == "MatMul":
        nodes, shape = [NODE("MatMul", ["x", "w"], ["y"])], ["n", "t"]
    else:
        nodes, shape = [NODE("Gemm", ["x", "w", "b"], ["y"], transB=int(op != "Gemm"))], ["n"]
    float_file = graph(nodes, {"w": stored, "b": bias}, {"x": [*shape, 7]}, {"y": [*shape, 13]})
    body = write(float_file, {"w": (encoding, "as_is" if op == "transposed Gemm" else "transposed")}, {}, TARGET)
    check(body)
    assert audit(body, TARGET) == {"MatMul": (1, 1)}
    session = Session(body, TARGET)
    for length in (1, 5):
        x = images(1, *([length, 7] if op == "MatMul" else [7]), seed=length)["x"]
        expected = at_run_time(x, encoding) + (0 if op == "MatMul" else bias)
        np.testing.assert_allclose(session.run({"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_codes_and_scales_are_stored_as_they_are_and_readers_of_a_value_share_its_grid() -> None:
    first, second = coded(weight(8, 6)), coded(weight(4, 6, seed=1))
    nodes = [NODE("Tanh", ["x"], ["h"]), NODE("MatMul", ["h", "a"], ["y"]), NODE("MatMul", ["h", "b"], ["z"])]
    weights = {"a": np.ascontiguousarray(values(first).T), "b": np.ascontiguousarray(values(second).T)}
    float_file = graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 8], "z": ["n", 4]})
    body = write(float_file, {"a": (first, "transposed"), "b": (second, "transposed")}, {}, TARGET)
    arrays = initializers(body)
    for encoding in (first, second):
        assert any(array.dtype == np.int8 and np.array_equal(array, encoding.codes.T) for array in arrays)
        assert any(array.dtype == np.float32 and np.array_equal(array, encoding.scale) for array in arrays)
    assert operators(body)["DynamicQuantizeLinear"] == 1 and operators(body)["MatMulInteger"] == 2
    assert {value.name for value in onnx.load_from_string(body).graph.output} == {"y", "z"}


SQUARE = coded(weight(6, 6))
GROUPED = coded(weight(6, 6), 7, 3)
ODD: dict[str, tuple[NodeProto, np.ndarray, Encoding]] = {  # node, initializer, its encoding
    "three axes": (NODE("MatMul", ["x", "w"], ["y"]), values(SQUARE)[None], SQUARE),
    "scales of inputs": (NODE("MatMul", ["x", "w"], ["y"]), values(SQUARE), SQUARE),
    "groups": (NODE("Gemm", ["x", "w"], ["y"], transB=1), values(GROUPED), GROUPED),
    "factor": (NODE("Gemm", ["x", "w"], ["y"], transB=1, alpha=2.0), values(SQUARE), SQUARE),
    "left": (NODE("MatMul", ["w", "x"], ["y"]), values(SQUARE), SQUARE),
}


@pytest.mark.parametrize("case", ODD)
def test_products_without_a_dynamic_form_compute_in_float_with_the_same_weights(case: str) -> None:
    node, stored, encoding = ODD[case]
    float_file = graph([node], {"w": stored}, {"x": [6, 6]}, {"y": [1, 6, 6] if case == "three axes" else [6, 6]})
    body = write(float_file, {"w": (encoding, "as_is")}, {}, TARGET)
    check(body)
    assert not operators(body).keys() & {"MatMulInteger", "DynamicQuantizeLinear"}
    x = images(6, 6)
    found, wanted = (open_session(content, TARGET).run(None, x)[0] for content in (body, float_file))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_weight_of_several_readers_is_stored_once() -> None:
    encoding = coded(weight(40, 40))
    table = np.ascontiguousarray(values(encoding))
    nodes = [
        NODE("Gather", ["w", "i"], ["e"]),
        NODE("Gemm", ["e", "w"], ["h"], transB=1),
        NODE("Gemm", ["h", "w"], ["y"], transB=1),
    ]
    float_file = graph(nodes, {"w": table}, {"i": ["n"]}, {"y": ["n", 40]}, integers=("i",))
    body = write(float_file, {"w": (encoding, "as_is")}, {}, TARGET)
    assert sum(array.dtype == np.int8 and array.size == 1600 for array in initializers(body)) == 1
    assert operators(body)["MatMulInteger"] == 2
    index = {"i": np.arange(9, dtype=np.int64)}
    assert error(Session(body, TARGET).run(index)[0], Session(float_file, TARGET).run(index)[0]) < 0.02


def lstm(encoded: dict[str, Encoding], directions: int = 1) -> bytes:
    """An LSTM of 8 units whose gates the graph brings into the operator's order; input `[n, t, 5]`, output `[n, t, ...]`."""
    nodes, constants = [], {name: values(encoding) for name, encoding in encoded.items()}
    for number, (start, end) in enumerate(((0, 8), (8, 16), (16, 24), (24, 32))):
        constants |= {f"s{number}": np.array([start]), f"e{number}": np.array([end])}
    constants["zero"] = np.array([0])
    for name in encoded:
        parts = [f"{name}_{gate}" for gate in (0, 3, 1, 2)]
        nodes += [NODE("Slice", [name, f"s{gate}", f"e{gate}", "zero"], [f"{name}_{gate}"]) for gate in (0, 3, 1, 2)]
        nodes += [NODE("Concat", parts, [f"{name}_c"], axis=0), NODE("Unsqueeze", [f"{name}_c", "zero"], [f"{name}_d"])]
    w, r = (f"{kind}_d" for kind in "wr")
    if directions == 2:
        nodes += [NODE("Concat", [f"{kind}_d", f"{kind}2_d"], [f"{kind}_e"], axis=0) for kind in "wr"]
        w, r = "w_e", "r_e"
    direction: dict[str, Any] = {"direction": "bidirectional"} if directions == 2 else {}
    nodes += [
        NODE("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        NODE("LSTM", ["xt", w, r], ["h"], hidden_size=8, **direction),
        NODE("Transpose", ["h"], ["y"], perm=[2, 0, 1, 3]),
    ]
    return graph(nodes, constants, {"x": ["n", "t", 5]}, {"y": ["n", "t", directions, 8]})


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_reads_its_codes_in_the_order_of_its_gates(directions: int) -> None:
    names = ("w", "r", "w2", "r2")[: 2 * directions]
    encoded = {name: coded(weight(32, 5 if name[0] == "w" else 8, seed=seed)) for seed, name in enumerate(names)}
    float_file = lstm(encoded, directions)
    body = write(float_file, {name: (encoding, "as_is") for name, encoding in encoded.items()}, {}, TARGET)
    check(body)
    assert operators(body) == {"Transpose": 4, "DynamicQuantizeLSTM": 1} and audit(body, TARGET) == {"LSTM": (1, 1)}
    order = np.concatenate([np.arange(8 * gate, 8 * gate + 8) for gate in (0, 3, 1, 2)])
    codes = np.stack([encoded[name].codes[order] for name in names if name[0] == "w"])
    assert any(array.dtype == np.int8 and np.array_equal(array, codes) for array in initializers(body))
    for length in (1, 6):
        x = images(3, length, 5, seed=length)
        assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.03


def test_an_lstm_with_a_float_weight_stays_as_it_is() -> None:
    encoded = {"w": coded(weight(32, 5)), "r": coded(weight(32, 8, seed=1))}
    float_file = lstm(encoded)
    body = write(float_file, {"w": (encoded["w"], "as_is")}, {}, TARGET)
    assert operators(body)["LSTM"] == 1
    x = images(3, 4, 5)
    np.testing.assert_allclose(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0], rtol=1e-4, atol=1e-5)


def product_file(size: int = 48) -> tuple[bytes, dict[str, tuple[Encoding, str]]]:
    encoding = coded(weight(size, size))
    stored = np.ascontiguousarray(values(encoding).T)
    nodes = [NODE("MatMul", ["x", "w"], ["y"])]
    return graph(nodes, {"w": stored}, {"x": ["n", "t", size]}, {"y": ["n", "t", size]}), {"w": (encoding, "transposed")}


def test_an_example_has_the_same_outputs_whatever_lies_beside_it() -> None:
    float_file, encodings = product_file()
    body = write(float_file, encodings, {}, TARGET)
    x = images(3, 4, 48)["x"]
    x[1] *= 100  # makes the grid of a common run coarse
    session = Session(body, TARGET)
    np.testing.assert_array_equal(session.run({"x": x})[0][:1], session.run({"x": x[:1]})[0])
    assert not np.array_equal(session.run({"x": x}, size=3)[0][:1], session.run({"x": x[:1]})[0])


def test_weights_of_8_bits_do_not_saturate() -> None:
    """All products of a pair are near their largest value, beyond 16 bits."""
    target = replace(TARGET, reduce_range=False)
    w = np.full((16, 16), 0.9, np.float32) + 0.1 * np.abs(weight(16, 16))
    float_file = graph([NODE("MatMul", ["x", "w"], ["y"])], {"w": w}, {"x": ["n", 16]}, {"y": ["n", 16]})
    x = {"x": np.random.default_rng(0).uniform(0.9, 1.0, (64, 16)).astype(np.float32)}
    body = write(float_file, {"w": (encode(np.ascontiguousarray(w.T)), "transposed")}, {}, target)
    np.testing.assert_allclose(Session(body, target).run(x)[0], Session(float_file, target).run(x)[0], rtol=0.01)


def test_a_file_is_checked_against_targets() -> None:
    float_file, encodings = product_file()
    body = write(float_file, encodings, {}, TARGET)
    report = check_file(body, TARGET)
    assert not report.findings and report.precision.integer_share == 1.0
    refused = [finding for finding in check_file(body, load_target("tensorrt")).findings if finding.severity == "refused"]
    assert {finding.operator for finding in refused} >= {"MatMulInteger", "DynamicQuantizeLinear"}
    full = {"w": (encode(values(encodings["w"][0])), "transposed")}
    (note,) = check_file(write(float_file, full, {}, replace(TARGET, reduce_range=False)), TARGET).findings
    assert note.severity == "note" and note.operator == "MatMulInteger" and "use 8 bits" in note.sentence


def chosen(monkeypatch: pytest.MonkeyPatch, target: Target, ratio: float) -> integer_form.IntegerFile:
    """The file of a product where every second file of a pair is `ratio` times as fast as the first one."""
    float_file, encodings = product_file()
    x = images(16, 4, 48)
    expected = Session(float_file, target).run(x)
    original = integer_form.time_pair
    monkeypatch.setattr(integer_form, "cannot_run_here", lambda target: "" if target.processor_flags else "no processor")
    monkeypatch.setattr(integer_form, "time_pair", lambda *given: replace(original(*given), ratio=ratio))
    return integer_file(float_file, encodings, Calibration([x]), target, Comparison([x], expected, positions=((False,) * 3,)))


@pytest.mark.parametrize(("ratio", "form"), [(1.5, "dynamic"), (1.01, "static"), (0.5, "static")])
def test_the_faster_form_is_written_where_the_target_allows_both(
    monkeypatch: pytest.MonkeyPatch, ratio: float, form: str
) -> None:
    monkeypatch.setattr("dyncompress.deployment.bench.SECONDS", 0.01)
    monkeypatch.setattr(integer_form, "WORTH", 0.1)
    both = replace(TARGET, forms=("static", "dynamic"))
    written = chosen(monkeypatch, both, ratio)
    assert written.form == form and ("DynamicQuantizeLinear" in operators(written.body)) == (form == "dynamic")
    assert written.over_other == pytest.approx(ratio if form == "dynamic" else 1 / ratio)


def test_the_static_form_stays_where_the_dynamic_one_gains_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyncompress.deployment.bench.SECONDS", 0.01)
    written = chosen(monkeypatch, replace(TARGET, forms=("static", "dynamic")), 1.2)
    assert written.form == "static" and "QuantizeLinear" in operators(written.body)


def test_where_nothing_can_be_timed_the_targets_first_form_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for forms in (("static", "dynamic"), ("dynamic", "static"), ("dynamic",)):
        written = chosen(monkeypatch, replace(ANYWHERE, forms=forms), 3.0)
        assert written.form == forms[0] and not written.over_other > 0


def test_activations_stay_float_where_the_dynamic_form_gains_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyncompress.deployment.bench.SECONDS", 0.01)
    written = chosen(monkeypatch, TARGET, 1.1)
    assert written.gain == 1.1 and not written.form and "DynamicQuantizeLinear" not in operators(written.body)


def test_a_certificate_says_that_examples_run_one_at_a_time() -> None:
    torch = pytest.importorskip("torch")
    import dyncompress as dc

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = (
            torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).eval(),
            torch.randn(400, 32),
        )
    held_out = (x[64:], net(x[64:]).argmax(1))
    file = dc.compress(net, "edge-int8", target=ANYWHERE, calibration=x[:64], held_out=held_out)
    assert file.certificate is not None
    assert any("one example at a time" in sentence for sentence in file.certificate.assumptions)
    assert any("dynamic form" in note for note in file.notes)


def test_a_channel_that_one_grid_would_lose_stays_in_float() -> None:
    """One input channel is a million times as large as the one that the second output reads."""
    encoding = Encoding(np.array([[1, 0], [0, 1]], np.int8), np.ones(2, np.float32), 8)
    float_file = graph([NODE("MatMul", ["x", "w"], ["y"])], {"w": values(encoding).T}, {"x": ["n", 2]}, {"y": ["n", 2]})
    x = {"x": images(32, 2)["x"] * np.array([1e6, 1], np.float32)}
    expected = Session(float_file, TARGET).run(x)
    comparison = Comparison([x], expected, positions=((False, False),))
    written = integer_file(float_file, {"w": (encoding, "transposed")}, Calibration([]), ANYWHERE, comparison)
    assert written.all_float and "DynamicQuantizeLinear" not in operators(written.body)


PACKED: dict[str, tuple[int, tuple[str, ...], bool]] = {  # case: group, operators behind the product, whether it stays packed
    "channel": (0, (), True),
    "group": (16, (), True),
    "a bias": (0, ("Neg", "Relu"), True),
    "an odd group": (12, (), False),
    "a small group": (8, (), False),
    "a Relu": (0, ("Relu", "Neg"), False),
    "a Clip": (16, ("Clip", "Neg"), False),
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", PACKED)
def test_no_weight_of_a_float_product_is_decoded_at_every_run(case: str, bits: int) -> None:
    group, behind, packed = PACKED[case]
    encoding = coded(weight(16, 48), 7 if bits == 8 else bits, group)
    names = [f"v{i}" for i in range(len(behind))] + ["y"]
    nodes = [NODE("MatMul", ["x", "w"], names[:1])]
    nodes += [NODE(op, [names[i]], [names[i + 1]]) for i, op in enumerate(behind)]
    float_file = graph(nodes, {"w": np.ascontiguousarray(values(encoding).T)}, {"x": ["n", 48]}, {"y": ["n", 16]})
    body = write(float_file, {"w": (encoding, "transposed")}, {}, replace(TARGET, activation_dtype="float32"))
    found = [node.op_type for node in optimized_model(body, TARGET).graph.node]
    assert "DequantizeLinear" not in found and ("MatMulNBits" in found) == packed
    x = images(8, 48)
    tolerance = 0.02 if packed else 1e-5
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < tolerance


@pytest.mark.parametrize("group", [0, 16])
def test_4_bit_weights_of_a_float_product_keep_4_bits_in_memory(group: int) -> None:
    encoding = coded(weight(64, 32), 4, group)
    nodes = [NODE("MatMul", ["x", "w"], ["y"])]
    stored = np.ascontiguousarray(values(encoding).T)
    float_file = graph(nodes, {"w": stored}, {"x": ["n", 32]}, {"y": ["n", 64]})
    body = write(float_file, {"w": (encoding, "transposed")}, {}, replace(TARGET, activation_dtype="float32"))
    assert operators(body) == {"DequantizeLinear": 1, "MatMul": 1}
    (node,) = optimized_model(body, TARGET).graph.node
    assert node.op_type == "MatMulNBits" and {a.name: a.i for a in node.attribute}["bits"] == 4
    x = images(8, 32)
    assert error(Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]) < 0.02


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("forms = []", "forms holds nothing; list static, dynamic or both"),
        ('forms = ["static", "static"]', r"forms holds \['static', 'static'\]; list static"),
        ('forms = ["dynamik"]', "forms is 'dynamik'; did you mean 'dynamic'?"),
        ('forms = ["dynamic"]\nactivation_dtype = "int8"', "forms holds 'dynamic', which needs activation_dtype = \"uint8\""),
        ('forms = ["dynamic"]\nfolds_constants = false', "forms holds .* folds_constants = true; leave it out"),
    ],
)
def test_forms_that_a_target_cannot_have_are_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'name = "t"\nsummary = "s"\nverified = "schema"\n{line}\n')
    with pytest.raises(InvalidRequest, match=rf"mine\.toml: {message}"):
        load_target(tmp_path / "mine.toml")


@pytest.mark.slow
def test_a_transformer_of_any_length_is_close_to_its_original() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    import dyncompress as dc

    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 90}

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(transformers.BertConfig(**small), add_pooling_layer=False)

        def forward(self, ids: Any) -> Any:
            return self.bert(input_ids=ids).last_hidden_state

    net = States().eval()
    batches = [{"ids": torch.randint(0, 90, (16, length))} for length in (5, 9, 12)]
    file = dc.compress(net, "edge-int8", target=ANYWHERE, calibration=batches)
    assert file.fused["MatMul"][0] == 12 and any("dynamic form" in note for note in file.notes)
    session = Session(file.body, ANYWHERE)
    for length in (3, 31):
        ids = torch.randint(0, 90, (4, length))
        with torch.no_grad():
            wanted = net(ids).numpy()
        assert error(session.run({"ids": ids.numpy()})[0], wanted) < 0.05
