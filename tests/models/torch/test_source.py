"""The copy that is compressed is compared with the model that came in, before any work."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import dyncompress as dc
from dyncompress.models.torch.opening import open_model
from tests.tiny import CALIBRATION, TARGET, network

X = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))


def dense() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)).eval()


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.randn(len(x), 1)


class Counting(nn.Module):
    """Keeps a state in a buffer, which each call moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x)


class Copied(nn.Module):
    """Its copy isn't what it is itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.factor = dense(), 2.0

    def __deepcopy__(self, memo: dict) -> Copied:
        new = Copied()
        new.factor = 1.0
        return new

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


def test_a_copy_that_computes_something_else_is_refused() -> None:
    with pytest.raises(
        dc.InvalidRequest, match=r"output 0 of the copy that would be compressed differs from the model's by 50 %"
    ):
        open_model(Copied().eval(), {"x": X})


def test_answers_that_change_from_call_to_call_are_refused() -> None:
    with pytest.raises(dc.InvalidRequest, match="changes from call to call on the same example"):
        open_model(Noisy().eval(), {"x": X})


def test_the_callers_model_keeps_its_state() -> None:
    model = Counting().eval()
    dc.compress(model, "edge-int8", target=TARGET, calibration=X)
    assert model.calls == 0


def test_a_forward_method_set_from_outside_is_part_of_the_model() -> None:
    model = dense()
    plain = model.forward
    model.forward = types.MethodType(lambda self, input: nn.Sequential.forward(self, input) * 2, model)
    opened = open_model(model, {"input": X})
    torch.testing.assert_close(opened.predict({"input": X})[0], 2 * plain(X))


@pytest.mark.parametrize("after_a_pass", [False, True])
def test_weights_made_by_hooks_become_weights(after_a_pass: bool) -> None:
    model = dense()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    prune.l1_unstructured(model[2], "weight", 0.5)
    if after_a_pass:
        model(X)
    opened = open_model(model, {"input": X})
    torch.testing.assert_close(opened.predict({"input": X})[0], model(X).detach())
    assert {layer.name for layer in opened.layers() if not layer.left_alone} == {"0", "2"}


def test_a_model_in_training_mode_is_compared_as_it_evaluates_and_stays_as_it_is() -> None:
    model = nn.Sequential(dense(), nn.Dropout(0.5), nn.BatchNorm1d(5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=X)
    assert any("training mode" in note for note in file.notes) and file.parity.relative_error < 0.1
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_edits_do_leaves_the_original_out_of_account() -> None:
    from dyncompress.types import SetWeight

    x = torch.from_numpy(CALIBRATION)
    opened = open_model(network(), {"x": x})
    layer = next(layer for layer in opened.layers() if layer.name == "head")
    edited = opened.edited([SetWeight("head", torch.zeros(layer.shape))])
    torch.testing.assert_close(edited.original({"x": x})[0], network()(x))
    assert not torch.allclose(edited.predict({"x": x})[0], network()(x), atol=0.1)
    assert opened.state_digest and opened.state_digest != open_model(dense(), {"input": X}).state_digest


def test_a_copy_is_made_though_a_forward_pass_left_tensors_with_a_graph() -> None:
    from tests.traits.wrappers import SUBJECTS

    subject = SUBJECTS["tensors kept from the graph"]
    model, x = subject.model(), subject.data()
    adapter = open_model(model, {"x": x[:4]})
    adapter.module(x)  # as a pass for Fisher information does
    assert torch.equal(adapter.edited([]).predict({"x": x})[0], adapter.predict({"x": x})[0])
