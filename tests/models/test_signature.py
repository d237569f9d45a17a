"""The inputs that data provide, for every form of data; data that can be read only once are not lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest, Unsupported
from dyncompress.models.signature import refuse_other_form, resolve_inputs
from dyncompress.types import HeldOut

X, Y = np.zeros((6, 3), np.float32), np.zeros(6, np.int64)


class One:
    def forward(self, pixels, scale=1.0): ...


class Two:
    def forward(self, ids, mask, labels=None, *, types=None): ...


class Labelled:
    def forward(self, x, y): ...


class Anything:
    def forward(self, *inputs): ...


@pytest.mark.parametrize(
    ("model", "data", "names"),
    [
        (One(), X, ("pixels",)),
        (One(), (X, Y), ("pixels",)),
        (One(), None, ("pixels",)),
        (One(), {"pixels": X, "labels": Y}, ("pixels",)),
        (One(), {"pixels": X, "scale": X}, ("pixels", "scale")),
        (One(), {"x": X}, ("pixels",)),  # `x` stands for the only input
        (One(), [(X, Y)], ("pixels",)),
        (One(), [], ("pixels",)),
        (One(), HeldOut({"pixels": X}), ("pixels",)),
        (Two(), {"ids": Y, "mask": Y}, ("ids", "mask")),
        (Two(), {"ids": Y, "mask": Y, "types": Y}, ("ids", "mask", "types")),
        (Two(), {"ids": Y, "mask": Y, "labels": Y}, ("ids", "mask")),  # with labels, the first output would be the loss
        (Two(), [{"ids": Y, "mask": Y, "types": Y}], ("ids", "mask", "types")),
        (Two(), [({"ids": Y, "mask": Y, "types": Y}, Y)], ("ids", "mask", "types")),
        (Two(), {"ids": Y}, ("ids", "mask")),  # missing inputs are reported when the data are read
        (Labelled(), {"x": X, "y": X}, ("x", "y")),
        (Anything(), X, ("x",)),
    ],
)
def test_the_inputs_that_data_provide(model: object, data: object, names: tuple[str, ...]) -> None:
    assert resolve_inputs(model, data)[0] == names


def test_data_that_can_be_read_only_once_are_not_lost() -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for i in range(4):
            yield {"ids": np.full(2, i), "mask": Y[:2], "types": Y[:2]}

    names, data = resolve_inputs(Two(), batches())
    assert names == ("ids", "mask", "types") and [int(batch["ids"][0]) for batch in data] == [0, 1, 2, 3]
    names, data = resolve_inputs(Two(), iter([]))
    assert names == ("ids", "mask") and list(data) == []
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)), batch_size=2)
    assert resolve_inputs(One(), loader) == (("pixels",), loader)


def test_an_npz_is_looked_into(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=Y, mask=Y, types=Y, y=Y)
    assert resolve_inputs(Two(), tmp_path / "a.npz") == (("ids", "mask", "types"), tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("model", "kind", "facts"),
    [
        ("net.onnx", Unsupported, ["'net.onnx' is a file", "load it first"]),
        (Path("net.pt2"), Unsupported, ["'net.pt2' is a file"]),
        (torch.nn.Linear, InvalidRequest, ["the class Linear", "an instance"]),
        (torch.nn.Linear(2, 1).state_dict(), InvalidRequest, ["OrderedDict", "torch.nn.Module"]),
        (None, InvalidRequest, ["NoneType", "torch.nn.Module"]),
    ],
)
def test_objects_that_are_not_models_are_refused(model: object, kind: type[Exception], facts: list[str]) -> None:
    with pytest.raises(kind) as caught:
        resolve_inputs(model, X)
    assert all(fact in str(caught.value) for fact in facts) and "\n" not in str(caught.value)


def test_held_out_data_have_the_calibrations_form() -> None:
    refuse_other_form({"x": X}, {"x": torch.zeros(2, 3, dtype=torch.float64)})  # all float types become float32
    refuse_other_form({"x": X[:2], "more": X}, {"x": X})
    for held_out, facts in (
        ({"x": X[:, :2]}, ["'x'", "float32 [2]", "float32 [3]"]),
        ({"x": X.astype(np.int32)}, ["'x'", "int32 [3]", "float32 [3]", "alike"]),
        ({"z": X}, ["'x' is missing"]),
    ):
        with pytest.raises(InvalidRequest) as caught:
            refuse_other_form(held_out, {"x": X})
        assert all(fact in str(caught.value) for fact in facts)


class Sum(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_inputs_of_a_wrapped_network_are_its_own() -> None:
    wrapped = {
        "compiled": torch.compile(Sum()),
        "parallel": nn.DataParallel(Sum()),
        "both": torch.compile(nn.DataParallel(Sum())),
    }
    for name, model in wrapped.items():
        assert resolve_inputs(model, {"left": [1], "right": [2]})[0] == ("left", "right"), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_one_sentence() -> None:
    for model in (torch.jit.script(Sum()), torch.jit.trace(Sum(), (torch.ones(1), torch.ones(1)))):
        with pytest.raises(Unsupported, match="the model is TorchScript, whose layers can't be edited"):
            resolve_inputs(model, {"left": [1], "right": [2]})
