"""Sequences, optional values and strings: what ONNX's own tests leave out, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from dyncompress.models.onnx.interpreter import Interpreter
from tests.models.onnx.backend import compare, value
from tests.models.onnx.test_shapes import agrees, ints, model_of, numbers, words

# Nodes between the inputs `x` (2, 3), `z` (2, 3) and the output `y`, and its type.
GRAPHS = {
    "insert": ("s = SequenceConstruct(x)\n t = SequenceInsert(s, z, zero)\n y = SequenceAt(t, last)", "float[a,b]"),
    "append": ("s = SequenceConstruct(x)\n t = SequenceInsert(s, z)\n y = SequenceAt(t, last)", "float[a,b]"),
    "insert before the last": (
        "s = SequenceConstruct(x, x)\n t = SequenceInsert(s, z, last)\n y = ConcatFromSequence<axis = -1>(t)",
        "float[a,b]",
    ),
    "erase": ("s = SequenceConstruct(x, z)\n t = SequenceErase(s, zero)\n y = SequenceAt(t, zero)", "float[a,b]"),
    "erase the last": ("s = SequenceConstruct(x, z)\n t = SequenceErase(s)\n y = SequenceAt(t, last)", "float[a,b]"),
    "erase by a negative": (
        "s = SequenceConstruct(x, z, x)\n t = SequenceErase(s, last)\n y = ConcatFromSequence<axis = 0>(t)",
        "float[a,b]",
    ),
    "length": ("s = SequenceEmpty()\n t = SequenceInsert(s, x)\n y = SequenceLength(t)", "int64"),
    "slices": ("s = SplitToSequence<axis = 1, keepdims = 0>(x)\n y = SequenceAt(s, last)", "float[a]"),
    "parts": ("s = SplitToSequence<axis = -1>(x, two)\n y = SequenceAt(s, last)", "float[a,b]"),
    "sizes": ("s = SplitToSequence<axis = -1>(x, sizes)\n y = SequenceAt(s, zero)", "float[a,b]"),
    "stack": ("s = SequenceConstruct(x, z)\n y = ConcatFromSequence<axis = -1, new_axis = 1>(s)", "float[a,b,c]"),
    "optional": ("o = Optional(x)\n h = OptionalHasElement(o)\n y = OptionalGetElement(o)", "float[a,b]"),
    "no element": ("o = Optional<type = float[2]>()\n y = OptionalHasElement(o)", "bool"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_sequences(name: str) -> None:
    nodes, kind = GRAPHS[name]
    nodes = nodes.replace("<type = float[2]>()", "()")
    text = f"""<ir_version: 8, opset_import: ["" : 15]>
    graph (float[2,3] x, float[2,3] z) => ({kind} y)
    <int64 zero = {{0}}, int64 last = {{-1}}, int64 two = {{2}}, int64[2] sizes = {{1, 2}}> {{ {nodes} }}"""
    model = parser.parse_model(text)
    for node in model.graph.node:
        if node.op_type == "Optional" and not node.input:
            kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
            node.attribute.append(helper.make_attribute("type", kind))
    agrees(model, [numbers(2, 3), -numbers(2, 3)])


def test_sequence_map_of_tensors_and_of_nothing() -> None:
    body = parser.parse_graph(
        "body (float[a] x, float[b] z) => (float[a] sum, float[a] same) { sum = Add(x, z) same = Identity(x) }"
    )
    node = helper.make_node("SequenceMap", ["s", "z"], ["sums", "sames"], body=body)
    graph = helper.make_graph([node], "graph", [onnx.ValueInfoProto(name=name) for name in "sz"], [])
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output)
    interpreter = Interpreter(graph, {"": 17, "ai.onnx": 17})
    x, z = numbers(3), numbers(1)
    compare(list(interpreter.run([[value(x), value(-x)], value(z)])), [[x + z, z - x], [x, -x]], 0, 0)
    assert interpreter.run([[], value(z)]) == ([], [])


def test_sequences_of_strings() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 15]> graph (string[2,3] x) => (string[a,b] y)
    { s = SplitToSequence<axis = 1>(x)  t = SequenceErase(s)  y = ConcatFromSequence<axis = 0>(t) }""")
    agrees(model, [words(2, 3)])


def test_an_empty_tensor_splits_into_no_parts() -> None:
    for attributes in ({}, {"keepdims": 0}):
        model = model_of("SplitToSequence", [numbers(0, 2)], attributes, 11)
        assert Interpreter(model.graph, {"": 11}).run([value(numbers(0, 2))]) == ([],)


TEXTS = np.array([["a  b", "", " A b,c "]], dtype=object)
POOL = {"ngram_counts": [0, 4], "ngram_indexes": [0, 1, 2, 3, 4, 6, 5], "min_gram_length": 1, "max_gram_length": 2}
NUMBERS = {**POOL, "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7]}
STRINGS = {**POOL, "pool_strings": ["a", "b", "c", "d", "a", "b", "b", "c", "a", "c"]}
WEIGHTS = {"weights": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}

# Operator, inputs, attributes, number of outputs.
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("StringConcat", [TEXTS, np.array(["+"], dtype=object)], {}, 1),
    ("StringConcat", [np.array("a", dtype=object), np.array("b", dtype=object)], {}, 1),
    ("StringSplit", [TEXTS], {}, 2),
    ("StringSplit", [TEXTS], {"maxsplit": 1}, 2),
    ("StringSplit", [np.array(["a,b,", ","], dtype=object)], {"delimiter": ","}, 2),
    ("StringNormalizer", [np.array(["The", "cat", "thE"], dtype=object)], {"stopwords": ["the"], "locale": "C"}, 1),
    ("StringNormalizer", [np.array([["The", "cat"]], dtype=object)], {"stopwords": ["The", "cat"], "is_case_sensitive": 1}, 1),
    ("StringNormalizer", [np.array(["The", "cat"], dtype=object)], {"case_change_action": "UPPER", "locale": "C"}, 1),
    ("RegexFullMatch", [TEXTS], {"pattern": "[a-c ]*"}, 1),
    ("TfIdfVectorizer", [ints(2, 3, 5, 6, 5, 6, 2)], {**NUMBERS, "mode": "TF", "max_skip_count": 0}, 1),
    ("TfIdfVectorizer", [np.array([[5, 6, 7], [7, 8, 5]], np.int32)], {**NUMBERS, "mode": "TF", "max_skip_count": 1}, 1),
    ("TfIdfVectorizer", [words(0)], {**STRINGS, "mode": "TF", "max_skip_count": 0}, 1),
    ("TfIdfVectorizer", [np.array(list("abcab"), object)], {**STRINGS, **WEIGHTS, "mode": "TFIDF", "max_skip_count": 1}, 1),
    ("TfIdfVectorizer", [np.array([list("abcab")], object)], {**STRINGS, **WEIGHTS, "mode": "IDF", "max_skip_count": 0}, 1),
    ("TfIdfVectorizer", [ints(2, 2, 3)], {**NUMBERS, "mode": "IDF", "max_skip_count": 0}, 1),
]


@pytest.mark.parametrize(("operator", "inputs", "attributes", "outputs"), CASES)
def test_strings(operator: str, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> None:
    agrees(model_of(operator, inputs, attributes, 20, outputs), inputs)


LABELS = np.array([["cat", "dog"], ["cow", "cat"]], dtype=object)
CODES = np.array([[1, 2], [9, 1]])

# Version, input, attributes of LabelEncoder.
ENCODERS: list[tuple[int, np.ndarray, dict[str, Any]]] = [
    (1, LABELS, {"classes_strings": ["dog", "cat"], "default_int64": -7}),
    (1, CODES, {"classes_strings": ["dog", "cat"], "default_string": "none"}),
    (2, LABELS, {"keys_strings": ["dog", "cat"], "values_floats": [0.5, 1.5]}),
    (2, CODES, {"keys_int64s": [1, 2], "values_strings": ["dog", "cat"]}),
    (2, np.array([1, 2, 3], np.float32), {"keys_floats": [2.0, 1.0], "values_int64s": [4, 5], "default_int64": 6}),
    (4, np.array([1, np.nan, 3], np.float32), {"keys_floats": [np.nan, 1], "values_strings": ["a", "b"], "default_string": "c"}),
    (
        4,
        CODES.astype(np.float32),
        {
            "keys_tensor": helper.make_tensor("", TensorProto.FLOAT, [2], [1, 2]),
            "values_tensor": helper.make_tensor("", TensorProto.INT64, [2], [3, 4]),
            "default_tensor": helper.make_tensor("", TensorProto.INT64, [1], [5]),
        },
    ),
]


@pytest.mark.parametrize(("version", "x", "attributes"), ENCODERS)
def test_label_encoder(version: int, x: np.ndarray, attributes: dict[str, Any]) -> None:
    agrees(model_of("LabelEncoder", [x], attributes, version, domain="ai.onnx.ml"), [x])
