"""Every form of data that a user may pass gives the same batches, and every broken form has its own message."""

from __future__ import annotations

import zipfile
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dyncompress.errors import InvalidRequest
from dyncompress.models.data import as_batches, as_held_out, as_labelled, digests, load_npz, overlap, repeats
from dyncompress.types import HeldOut

X = np.random.default_rng(0).standard_normal((10, 3, 4)).astype(np.float32)
Y = np.arange(10) % 3
T, LABELS = torch.from_numpy(X), torch.from_numpy(Y)


def whole(batches: list[dict]) -> np.ndarray:
    return np.concatenate([np.asarray(batch["x"]) for batch in batches])


FORMS = {
    "numpy": lambda: X,
    "tensor": lambda: T,
    "with gradient": lambda: T.clone().requires_grad_(),
    "float64": lambda: X.astype(np.float64),
    "(x, y)": lambda: (T, LABELS),
    "((x,), y)": lambda: ((T,), LABELS),
    "(x,)": lambda: (X,),
    "dict": lambda: {"x": X, "labels": Y},
    "dict by the name x for another input": lambda: UserDict(x=T),
    "list of arrays": lambda: [X[:4], X[4:]],
    "list of pairs": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "tuple of pairs": lambda: ((X[:4], Y[:4]), (X[4:], Y[4:])),
    "generator": lambda: (X[i : i + 4] for i in (0, 4, 8)),
    "loader": lambda: DataLoader(TensorDataset(T, LABELS), batch_size=4),
    "loader of dicts": lambda: DataLoader([{"x": x, "labels": 0, "text": "a"} for x in T], batch_size=3),
    "held out": lambda: HeldOut({"x": X}, Y),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_examples(form: str) -> None:
    batches = as_batches(FORMS[form](), ["x"])
    np.testing.assert_array_equal(whole(batches), X)
    assert digests(batches) == digests([{"x": X}])
    assert whole(as_batches(FORMS[form](), ["x"], limit=5)).tolist() == X[:5].tolist()
    for read in (as_held_out, as_labelled):
        if read is as_held_out and form == "loader of dicts":
            continue  # the file has a column that is neither inputs nor labels nor groups
        held = read(FORMS[form](), ["x"])
        np.testing.assert_array_equal(held.inputs["x"], X)
        assert held.inputs["x"].dtype == np.float32


UNREAD: dict[str, tuple[Any, str]] = {
    "group": ({"x": X, "y": Y, "group": Y}, "held-out data: unknown key 'group'"),
    "group, nearest": ({"x": X, "y": Y, "group": Y}, "did you mean 'groups'?"),
    "label_": ({"x": X, "label_": Y}, "unknown key 'label_'"),
    "Y": ({"x": X, "Y": Y}, "did you mean 'y'?"),
    "nothing near": ({"x": X, "y": Y, "mask": Y}, "known: groups, label, labels, x, y."),
    "x beside the input": ({"pixels": X, "x": X}, "unknown key 'x'"),
    "a later batch": ([{"x": X[:5], "y": Y[:5]}, {"x": X[5:], "y": Y[5:], "group": Y[5:]}], "batch 1: unknown key 'group'"),
    "inside a tuple": (({"x": X, "group": Y}, Y), "unknown key 'group'"),
    "loader of dicts": (FORMS["loader of dicts"](), "batch 0: unknown key 'text'"),
    "labels under two names": ({"x": X, "y": Y, "labels": Y}, "labels under two names, 'y' and 'labels'"),
    "labels by name and place": (({"x": X, "y": Y}, Y), "it holds labels twice"),
    "groups by name and place": (({"x": X, "groups": Y}, Y, Y), "it holds groups twice"),
    "a fourth entry": ((X, Y, Y, Y), "3 entries after the inputs"),
    "another input": (HeldOut({"x": X, "z": X}, Y), "it has the inputs x, z, and the model takes x"),
    "labels among the inputs": (HeldOut({"x": X, "y": Y}), "it has the inputs x, y"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_all_held_out_data_is_read_or_refused(case: str) -> None:
    data, sentence = UNREAD[case]
    names = ["pixels"] if case.startswith("x beside") else ["x"]
    with pytest.raises(InvalidRequest) as caught:
        as_held_out(data, names)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    if not case.startswith("a later"):
        as_batches(FORMS["loader of dicts"]() if case == "loader of dicts" else data, names)  # calibration data may hold more


def test_keys_of_an_npz_are_read_or_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y, speaker=Y)
    with pytest.raises(InvalidRequest, match=r"d\.npz: unknown key 'speaker'"):
        as_held_out(tmp_path / "d.npz", ["x"])
    labels = as_labelled(tmp_path / "d.npz", ["x"]).labels
    assert labels is not None and labels.tolist() == Y.tolist()


def test_labels_and_groups_are_found_by_name_inside_a_tuple() -> None:
    held = as_held_out(({"x": X, "groups": Y}, Y), ["x"])
    assert held.labels is not None and held.groups is not None
    assert held.labels.tolist() == held.groups.tolist() == Y.tolist()


def test_an_npz_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "twice.npz", x=X + 1)
    with zipfile.ZipFile(tmp_path / "twice.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(InvalidRequest, match=r"twice\.npz: it holds 'x' twice"):
        load_npz(tmp_path / "twice.npz")


def test_repeats_are_the_later_copies_of_equal_inputs() -> None:
    rows = [0, 1, 0, 2, 1, 0]
    later, first = repeats(as_held_out({"a": X[rows], "b": Y[rows], "y": np.arange(6)}, ["a", "b"]))
    assert later.tolist() == [2, 4, 5] and first.tolist() == [0, 1, 0]
    assert [part.tolist() for part in repeats(as_held_out((X, Y), ["x"]))] == [[], []]
    one_input_differs = {"a": X[[0, 0]], "b": np.array([1, 2])}
    assert repeats(as_held_out(one_input_differs, ["a", "b"]))[0].tolist() == []


def test_tensors_stay_tensors_and_a_single_array_is_split() -> None:
    batches = as_batches(torch.zeros(300, 2), ["a"])
    assert [len(batch["a"]) for batch in batches] == [128, 128, 44]
    assert isinstance(batches[0]["a"], torch.Tensor)
    assert isinstance(as_batches(X, ["a"])[0]["a"], np.ndarray)


def test_a_generator_is_read_no_further_than_the_limit() -> None:
    drawn = []
    as_batches((drawn.append(i) or X for i in range(100)), ["x"], limit=15)
    assert len(drawn) == 2


def test_several_inputs_by_position_and_name() -> None:
    ids = np.arange(20).reshape(10, 2)
    for data in ((X, ids), (X, ids, Y), ((X, ids), Y), ({"a": X, "b": ids}, Y), {"b": ids, "a": X, "y": Y}):
        held = as_held_out(data, ["a", "b"])
        assert list(held.inputs) == ["a", "b"]
        np.testing.assert_array_equal(held.inputs["b"], ids)
        assert held.labels is None or (held.labels == Y).all()


def test_held_out_reads_labels_and_groups() -> None:
    speakers = ["ann", "bob"] * 5
    halves = [(X[:5], Y[:5], speakers[:5]), (X[5:], Y[5:], speakers[5:])]
    for data in ((X, Y, speakers), {"x": X, "y": Y, "groups": speakers}, halves):
        held = as_held_out(data, ["input"])
        assert held.labels is not None and held.groups is not None
        assert held.labels.tolist() == Y.tolist() and held.groups.tolist() == speakers
    assert as_held_out((X,), ["x"]).labels is None
    half = as_held_out(torch.ones(3, 2, dtype=torch.bfloat16), ["x"])
    assert half.inputs["x"].dtype == np.float32


def test_npz_by_name_or_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    np.testing.assert_array_equal(whole([{"x": b["pixels"]} for b in as_batches(tmp_path / "d.npz", ["pixels"])]), X)
    assert (as_held_out(str(tmp_path / "d.npz"), ["pixels"]).labels == Y).all()


def test_digests_depend_on_values_shapes_and_types_but_not_on_the_container() -> None:
    base = digests([{"x": X}])
    assert len(set(base)) == 10
    assert digests([{"x": T[:4]}, {"x": T[4:]}]) == base
    assert digests([{"renamed": T.double()}]) == base
    assert not set(digests([{"x": X.reshape(10, 12)}])) & set(base)
    assert not set(digests([{"x": X.view(np.int32)}])) & set(base)
    changed = X.copy()
    changed[3, 0, 0] = np.nextafter(changed[3, 0, 0], np.float32(9))
    assert [a == b for a, b in zip(digests([{"x": changed}]), base, strict=True)].count(False) == 1


def test_overlap_finds_exactly_the_shared_examples() -> None:
    seen = frozenset(digests(as_batches(T[[2, 7]], ["x"])))
    assert overlap(as_held_out((X, Y), ["x"]), seen).tolist() == [2, 7]
    assert overlap(as_held_out((X + 1, Y), ["x"]), seen).tolist() == []


def bad(value: float) -> np.ndarray:
    broken = X.copy()
    broken[4, 1, 1] = value
    return broken


REFUSED = {
    "empty array": (X[:0], "empty"),
    "empty list": ([], "holds no examples"),
    "used generator": (iter(()), "holds no examples"),
    "nan": (bad(np.nan), "1 NaN or infinite values (first in example 4)"),
    "inf tensor": (torch.from_numpy(bad(np.inf)), "1 NaN or infinite values (first in example 4)"),
    "strings": (np.array(["a", "b"]), "dtype <U1"),
    "objects": (np.array([None, 1.0], dtype=object), "dtype object"),
    "complex": (torch.ones(2, 2, dtype=torch.complex64), "complex"),
    "shapes": ([X, X[:, :2]], "batch 1: input 'x' has shape (2, 4) per example, the first batch had (3, 4)"),
    "list of x and y": ([X, Y], "a list is read as batches; inputs with labels are a tuple (x, y)"),
    "dtypes": ([X, X.astype(np.int32)], "is int32, the first batch was float32"),
    "number": (3, "a int was given"),
    "numbers": ([1.0, 2.0], "a float was given where a batch"),
    "scalar": (np.float32(1.0), "no batch axis"),
    "missing": ({"pixels": X}, "the model's input 'x' is missing; it holds pixels"),
    "ragged": ({"x": [[1.0], [1.0, 2.0]]}, "different lengths"),
    "data set": (TensorDataset(T, LABELS), "wrap the data set in a DataLoader"),
    "too many inputs": (((X, X), Y), "the model has 1 inputs (x) and 2 were given"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_data_is_refused_with_one_sentence(case: str) -> None:
    data, sentence = REFUSED[case]
    with pytest.raises(InvalidRequest) as caught:
        as_batches(data, ["x"])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"labels have shape \(9,\) for 10 examples"):
        as_held_out((X, Y[:9]), ["x"])
    with pytest.raises(InvalidRequest, match="labels are missing in 1 of 2 batches"):
        as_held_out([(X, Y), (X,)], ["x"])
    with pytest.raises(InvalidRequest, match="dtype <U1"):
        as_held_out((X, ["a"] * 10), ["x"])
    with pytest.raises(InvalidRequest, match="limit is 0"):
        as_batches(X, ["x"], limit=0)
    with pytest.raises(InvalidRequest, match="the model has 2 inputs"):
        as_batches(X, ["a", "b"])
    with pytest.raises(InvalidRequest, match="different numbers of examples"):
        as_batches((X, X[:3]), ["a", "b"])


def test_broken_files_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez(good, x=X, y=Y)
    content = good.read_bytes()
    for cut in (0, 3, 40, len(content) // 2, len(content) - 10):
        (tmp_path / "cut.npz").write_bytes(content[:cut])
        with pytest.raises(InvalidRequest, match=r"cut\.npz: .*truncated or not an \.npz file"):
            load_npz(tmp_path / "cut.npz")
    damaged = bytearray(content)
    damaged[200] ^= 255
    (tmp_path / "bad.npz").write_bytes(bytes(damaged))
    with pytest.raises(InvalidRequest, match="truncated or not"):
        load_npz(tmp_path / "bad.npz")
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InvalidRequest, match="not an"):
        load_npz(tmp_path / "array.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InvalidRequest, match="holds Python objects"):
        load_npz(tmp_path / "objects.npz")
    np.savez(tmp_path / "nox.npz", z=X)
    with pytest.raises(InvalidRequest, match="'x' is missing; it holds z"):
        as_batches(tmp_path / "nox.npz", ["x"])
    with pytest.raises(InvalidRequest, match="no such file"):
        load_npz(tmp_path / "absent.npz")
    with pytest.raises(InvalidRequest, match=r"read from \.npz"):
        load_npz(tmp_path / "data.csv")


IMAGES = np.random.default_rng(0).normal(size=(6, 3, 4, 4)).astype(np.float32)


LAYOUTS = {
    "flipped channels": IMAGES[:, ::-1].copy()[:, ::-1],
    "flipped rows": IMAGES[::-1].copy()[::-1],
    "big-endian": IMAGES.astype(">f4"),
    "float64": IMAGES.astype(np.float64),
    "columns first": np.asfortranarray(IMAGES),
    "a view": IMAGES.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("given", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_arrays_of_any_memory_layout_are_accepted(given: np.ndarray) -> None:
    (batch,) = as_batches(given, ("x",))
    assert batch["x"].dtype == np.float32 and batch["x"].dtype.isnative and min(batch["x"].strides) > 0
    np.testing.assert_array_equal(batch["x"], IMAGES)
    np.testing.assert_array_equal(as_held_out((given, np.arange(6)), ("x",)).inputs["x"], IMAGES)


def test_flipped_channels_stay_flipped() -> None:
    (batch,) = as_batches(IMAGES[:, ::-1], ("x",))
    np.testing.assert_array_equal(batch["x"], IMAGES[:, ::-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_type_become_float32(dtype: torch.dtype) -> None:
    (batch,) = as_batches(torch.from_numpy(IMAGES).to(dtype), ("x",))
    assert batch["x"].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(4, 3).to_sparse(), "is a sparse tensor; give a dense tensor"),
        (torch.zeros(4, 3, device="meta"), "is a meta tensor"),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged), "is a nested tensor"),
    ],
)
def test_tensors_that_are_not_plain_arrays_are_refused(value: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        as_batches({"x": value}, ("x",))
