"""Strings, as numpy arrays of objects: StringConcat, StringSplit, TfIdfVectorizer, LabelEncoder, ...."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyncompress.models.onnx.node import Function, Functions, Node, Value


def with_strings(functions: Functions) -> Functions:
    """A table of functions that only move elements, made to take strings too."""
    return {name: {since: _moving(each) for since, each in versions.items()} for name, versions in functions.items()}


def _moving(function: Function) -> Function:
    """A function that gets the positions of strings in a list of all, and gives the strings at the positions it returns.

    Position 0 holds the empty string, so that what the function fills with zeros becomes empty strings.
    """

    @functools.wraps(function)
    def run(node: Node, *inputs: Value) -> Any:
        """The function's results; strings where any input has strings."""
        if not any(_has_strings(value) for value in inputs):
            return function(node, *inputs)
        pool = [""]

        def positions(value: Value) -> Value:
            """The positions of a value's strings in the pool, to which they are added; other values as they are."""
            if isinstance(value, list):
                return [positions(item) for item in value]
            if not isinstance(value, np.ndarray):
                return value
            pool.extend(value.reshape(-1).tolist())
            return torch.arange(len(pool) - value.size, len(pool)).reshape(value.shape)

        outputs = function(node, *(positions(value) for value in inputs))
        return _taken(np.array(pool, dtype=object), outputs)

    return run


def _has_strings(value: Value) -> bool:
    """Whether a value is an array of strings or a sequence of some."""
    return any(_has_strings(item) for item in value) if isinstance(value, list) else isinstance(value, np.ndarray)


def _taken(pool: np.ndarray, value: Any) -> Any:
    """The strings at positions, wherever tensors of positions are."""
    if isinstance(value, Tensor):
        return pool[value.cpu().numpy()] if value.ndim else np.array(pool[int(value)], dtype=object)
    return type(value)(_taken(pool, item) for item in value)


def _array(items: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """An array of strings of this shape."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def string_concat(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each string of `x` followed by that of `y`."""
    x, y = np.broadcast_arrays(x, y)
    return _array([one + other for one, other in zip(x.flat, y.flat, strict=True)], x.shape)


def string_split(node: Node, x: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """The parts of each string, with empty strings up to the longest list, and how many there are."""
    delimiter, most = node.get("delimiter") or None, node.get("maxsplit", -1)
    # Whitespace at the end goes even where the last part isn't split further, which Python's split leaves.
    parts = [text.split(delimiter, most) if delimiter else text.strip().split(None, most) for text in x.flat]
    counts = [len(each) for each in parts]
    width = max(counts, default=0)
    padded = [item for each in parts for item in each + [""] * (width - len(each))]
    return _array(padded, (*x.shape, width)), torch.tensor(counts, dtype=torch.int64).reshape(x.shape)


def string_normalizer(node: Node, x: np.ndarray) -> np.ndarray:
    """The strings that are no stop words, in upper or lower case; one empty string where none is left."""
    action = node.get("case_change_action", "NONE")
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(action, str)
    compared = str if node.get("is_case_sensitive", 0) else str.lower
    stops = {compared(word) for word in node.get("stopwords", [])}
    kept = [change(text) for text in x.flat if compared(text) not in stops] or [""]
    return _array(kept, (*(1,) * (x.ndim - 1), len(kept)))


def regex_full_match(node: Node, x: np.ndarray) -> Tensor:
    """Whether the whole of each string matches the pattern."""
    pattern = re.compile(node.attributes["pattern"])
    return torch.tensor([pattern.fullmatch(text) is not None for text in x.flat], dtype=torch.bool).reshape(x.shape)


def tf_idf_vectorizer(node: Node, x: Tensor | np.ndarray) -> Tensor:
    """How often each n-gram of a list occurs in each row, weighted."""
    indexes, mode = node.attributes["ngram_indexes"], node.attributes["mode"]
    numbers = {gram: number for number, gram in enumerate(_pool(node))}
    table = x.tolist() if x.ndim == 2 else [x.reshape(-1).tolist()]
    found = [Counter(numbers[gram] for gram in _grams(node, words) if gram in numbers) for words in table]
    device = x.device if isinstance(x, Tensor) else None
    counts = torch.tensor([[each[number] for number in range(len(indexes))] for each in found], device=device)
    counts = counts.reshape(len(found), len(indexes)).float()
    if mode == "IDF":
        counts = counts.clamp(max=1)
    if mode != "TF" and node.get("weights"):
        counts = counts * torch.tensor(node.attributes["weights"], device=device)
    y = counts.new_zeros(len(found), max(indexes) + 1).index_add(1, torch.tensor(indexes, device=device), counts)
    return y if x.ndim == 2 else y[0]


def _pool(node: Node) -> list[tuple[Hashable, ...]]:
    """The n-grams that are looked for, shortest first."""
    pool = node.get("pool_strings") or node.get("pool_int64s")
    starts = [*node.attributes["ngram_counts"], len(pool)]
    return [
        tuple(pool[at : at + length])
        for length, (start, end) in enumerate(pairwise(starts), 1)
        for at in range(start, end, length)
    ]


def _grams(node: Node, words: Sequence[Hashable]) -> Iterator[tuple[Hashable, ...]]:
    """All n-grams of the wanted lengths, with up to so many words skipped between two of one; single words only once."""
    for step in range(1, node.attributes["max_skip_count"] + 2):
        for length in range(node.attributes["min_gram_length"], node.attributes["max_gram_length"] + 1):
            if length == 1 and step > 1:
                continue
            for start in range(len(words) - step * (length - 1)):
                yield tuple(words[start : start + step * (length - 1) + 1 : step])


def label_encoder_by_class(node: Node, x: Value) -> Value:
    """Strings as their positions in a list, or positions as the strings there."""
    classes = _array(node.attributes["classes_strings"], (-1,))
    places = torch.arange(len(classes))
    if isinstance(x, Tensor):
        return _picked(_places(x, places), classes, node.get("default_string", "_Unused"))
    return _picked(_places(x, classes), places, node.get("default_int64", -1))


def label_encoder(node: Node, x: Value) -> Value:
    """Each element's value in a table, or the default where it isn't in it."""
    keys, _ = _listed(node, "keys")
    values, kind = _listed(node, "values")
    default = node.get(f"default_{kind.removesuffix('s')}")
    if default is None and isinstance(values, Tensor):
        default = -0.0 if values.is_floating_point() else -1
    return _picked(_places(x, keys), values, "_Unused" if default is None else default)


def _listed(node: Node, prefix: str) -> tuple[Tensor | np.ndarray, str]:
    """The keys or the values of a table, and what the attribute's name says of their type."""
    dtypes = {"tensor": None, "strings": None, "int64s": torch.int64, "floats": torch.float32}
    kind = next(kind for kind in dtypes if f"{prefix}_{kind}" in node.attributes)
    value = node.attributes[f"{prefix}_{kind}"]
    if kind == "strings":
        return _array(value, (-1,)), kind
    return (value if kind == "tensor" else torch.tensor(value, dtype=dtypes[kind])), kind


def _places(x: Any, keys: Any) -> Tensor:
    """The place of each element's last equal key, from 1 on, or 0 where there is none; NaN equals NaN."""
    if isinstance(x, np.ndarray):
        table = {key: place for place, key in enumerate(keys.flat, 1)}
        return torch.tensor([table.get(text, 0) for text in x.flat], dtype=torch.int64).reshape(x.shape)
    keys = keys.to(x.device).reshape(-1)
    equal = x.unsqueeze(-1) == keys
    if keys.is_floating_point():
        equal = equal | (x.unsqueeze(-1).isnan() & keys.isnan())
    numbered = equal * torch.arange(1, len(keys) + 1, device=x.device)
    return torch.cat([numbered, x.new_zeros((*x.shape, 1), dtype=torch.int64)], -1).amax(-1)


def _picked(places: Tensor, values: Any, default: Any) -> Value:
    """The values at places from 1 on, the default at 0."""
    if isinstance(values, Tensor):
        first = torch.as_tensor(default, dtype=values.dtype).reshape(1)
        return torch.cat([first, values.reshape(-1)]).to(places.device)[places]
    first = default.reshape(-1)[0] if isinstance(default, np.ndarray) else default
    return _taken(_array([first, *values.flat], (-1,)), places)


FUNCTIONS: Functions = {
    "StringConcat": {20: string_concat},
    "StringSplit": {20: string_split},
    "StringNormalizer": {10: string_normalizer},
    "RegexFullMatch": {20: regex_full_match},
    "TfIdfVectorizer": {9: tf_idf_vectorizer},
}
ML_FUNCTIONS: Functions = {"LabelEncoder": {1: label_encoder_by_class, 2: label_encoder}}  # of the domain ai.onnx.ml
