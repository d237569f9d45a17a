from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import dyncompress.deployment as deployment
from dyncompress.deployment import (
    Session,
    audit,
    check,
    compare,
    environment,
    matches_target,
    parity,
    ranges,
    sizes,
    strip,
    write,
)
from dyncompress.deployment.session import CHUNK
from dyncompress.errors import Differs, InvalidRequest, Unsupported
from tests.deployment.graphs import FLOAT_TARGET, TARGET, encode, graph, images, residual, weight


def files(bits: int = 8) -> tuple[bytes, bytes, dict]:
    float_file, weights = residual()
    encodings = {name: (encode(w, bits), "as_is") for name, w in weights.items()}
    return float_file, write(float_file, encodings, ranges(float_file, [images(32)]), TARGET), encodings


def test_every_public_name_loads_and_none_is_hidden_by_a_module() -> None:
    modules = {path.stem for path in Path(deployment.__file__).parent.glob("*.py")}
    names = deployment._INDEX
    assert not names.keys() & modules
    for name, module in names.items():
        import_module(f"dyncompress.deployment.{module}")
        assert callable(getattr(deployment, name)) or name == "WORTH"
    with pytest.raises(AttributeError):
        _ = deployment.nothing  # type: ignore[attr-defined]


def test_chunks_give_the_outputs_of_single_runs() -> None:
    float_file, _, _ = files()
    session = Session(float_file, TARGET)
    x = images(2 * CHUNK + 3)
    whole = session.run(x)[0]
    parts = np.concatenate([session.run({"x": x["x"][i : i + 1]})[0] for i in range(len(x["x"]))])
    assert whole.shape == (2 * CHUNK + 3, 5)
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_sessions_refuse_what_they_cannot_run() -> None:
    float_file, _, _ = files()
    session = Session(float_file, TARGET)
    with pytest.raises(InvalidRequest, match="inputs"):
        session.run({"wrong": images(1)["x"]})
    with pytest.raises(InvalidRequest, match="at least one"):
        session.run({"x": np.zeros((0, 3, 16, 16), np.float32)})
    with pytest.raises(Unsupported, match="can't load"):
        Session(b"not a model", TARGET)
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    with pytest.raises(Unsupported, match="batch axis"):
        Session(graph(nodes, {}, {"x": ["n", 2]}, {"y": []}), TARGET).run(images(3, 2))


def test_parity_tells_export_errors_from_rounding() -> None:
    float_file, body, _ = files()
    x = images(40, seed=4)
    reference = Session(float_file, TARGET).run(x)
    result = parity(float_file, body, reference, x, TARGET)
    assert result.float_error < 1e-6 and 0 < result.relative_error < 0.05 and result.agreement > 0.9 and result.n == 40
    wrong = parity(float_file, body, (-reference[0],), x, TARGET)
    assert wrong.float_error > 0.1 and wrong.agreement < 0.5
    with pytest.raises(Differs, match="outputs"):
        parity(float_file, body, (reference[0][:, :3],), x, TARGET)


def test_audit_counts_float_operators_that_could_have_been_integer() -> None:
    float_file, body, _ = files()
    assert audit(body, TARGET) == {"Conv": (5, 5), "Gemm": (1, 1), "Add": (2, 2)}
    assert audit(float_file, TARGET) == {"Conv": (0, 5), "Gemm": (0, 1)}


def test_sums_inside_a_float_part_are_not_failures() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["t"]),
        helper.make_node("Add", ["t", "x"], ["y"]),
    ]
    w = weight(8, 8)
    float_file = graph(nodes, {"w": w}, {"x": ["n", 8]}, {"y": ["n", 8]})
    body = write(float_file, {"w": (encode(np.ascontiguousarray(w.T)), "transposed")}, ranges(float_file, [images(8, 8)]), TARGET)
    assert audit(body, TARGET) == {"MatMul": (1, 1)}


def test_the_four_sizes() -> None:
    _, body, encodings = files(4)
    size = sizes(body, encodings)
    count = sum(e.codes.size for e, _ in encodings.values())
    rows = sum(len(e.codes) for e, _ in encodings.values())
    assert size.file == len(body)
    assert abs(size.payload - (count / 2 + 8 * rows)) < 50
    assert count < size.resident < count + 20 * rows + 1000  # int8 again
    assert size.compressed < size.file and "4 bits" in size.compute and "int8" in size.compute


def test_check_refuses_a_broken_graph() -> None:
    _, body, _ = files()
    check(body)
    model = onnx.load_from_string(body)
    model.graph.node[0].input[0] = "missing"
    with pytest.raises(Unsupported, match="refuses"):
        check(model.SerializeToString())


def test_strip_removes_metadata_and_keeps_outputs() -> None:
    float_file, _, _ = files()
    model = onnx.load_from_string(float_file)
    for node in model.graph.node:
        node.doc_string, node.name = "/home/somebody/net.py", "n" * 40
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody/net.py")
    stripped = strip(model.SerializeToString())
    assert b"somebody" not in stripped and len(stripped) < len(float_file) + 200
    assert strip(stripped) == stripped
    assert np.array_equal(Session(stripped, TARGET).run(images(2))[0], Session(float_file, TARGET).run(images(2))[0])
    with pytest.raises(InvalidRequest, match="aren't an ONNX file"):
        strip(b"\x00\x01")


def test_a_target_says_where_it_was_not_run() -> None:
    assert matches_target(replace(TARGET, processor_flags=())) == ""
    assert "shows none of" in matches_target(replace(TARGET, processor_flags=("no_such_flag",)))
    assert "never run" in matches_target(replace(TARGET, verified="schema"))
    assert environment()["runtime"] == "onnxruntime" and environment()["version"]


def test_a_file_of_forty_products_is_measured_slower_than_one_of_one() -> None:
    def chain(length: int) -> bytes:
        names = ["x", *[f"v{i}" for i in range(length - 1)], "y"]
        nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
        return graph(nodes, {"w": weight(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]})

    timings = compare({"short": chain(1), "long": chain(40)}, images(64, 64), TARGET, rounds=15)
    assert timings["short"].relative == 1 and timings["long"].relative > 3
    assert timings["long"].minimum <= timings["long"].median <= timings["long"].p99 and timings["long"].rounds == 15
    with pytest.raises(InvalidRequest, match="rounds"):
        compare({}, images(1), FLOAT_TARGET)


def test_inputs_of_another_form_get_one_sentence() -> None:
    session = Session(files()[0], TARGET)
    name = session.input_names[0]
    for wrong in (np.zeros((2, 3, 5, 9), np.float32), np.zeros((2, 3, 8, 8), np.int64)):
        with pytest.raises(InvalidRequest, match=f"the file takes {name} .*another form") as caught:
            session.run({name: wrong})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shared", [False, True])
def test_large_codes_of_8_bits_do_not_saturate(shared: bool) -> None:
    """All products of a pair are near their largest value, beyond 16 bits; a weight may serve two nodes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    nodes += [helper.make_node("Relu", ["y"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["z"])] if shared else []
    w = np.full((16, 16), 0.9, np.float32) + 0.1 * np.abs(weight(16, 16))
    last = "z" if shared else "y"
    float_file = graph(nodes, {"w": w}, {"x": ["n", 16]}, {last: ["n", 16]})
    x = {"x": np.random.default_rng(0).uniform(0.9, 1.0, (64, 16)).astype(np.float32)}
    body = write(float_file, {"w": (encode(np.ascontiguousarray(w.T)), "transposed")}, ranges(float_file, [x]), TARGET)
    found, wanted = Session(body, TARGET).run(x)[0], Session(float_file, TARGET).run(x)[0]
    np.testing.assert_allclose(found, wanted, rtol=0.01)
