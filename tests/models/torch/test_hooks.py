"""Hooks that change a value belong to the model; what only looks is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dyncompress as dc
from dyncompress.models.torch.hooks import HookedLayer
from dyncompress.models.torch.opening import open_model
from dyncompress.recipe.toml_files import load_recipe
from tests.running import session_of

TARGET = "onnxruntime-x86-vnni"
SEEN: list[Tensor] = []


def dense() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()


class Shared(nn.Module):
    """One activation module at two places, with a hook on it, and a method of its own as a hook."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.act, self.b, self.c = nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 5)
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.act.register_forward_hook(self.scaled)

    def scaled(self, _module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        return output * self.factor

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.b(self.act(self.a(x)))))


def tripled(_module: nn.Module, _args: tuple, output: Tensor) -> None:
    output.mul_(3)


ATTACH: dict[str, Callable[[nn.Module], object]] = {
    "input normalised": lambda m: m.register_forward_pre_hook(lambda _m, a: ((a[0] - 3) / 2,)),
    "activation scaled": lambda m: m[1].register_forward_hook(lambda _m, _a, out: out * 0.5 + 1),
    "whole output": lambda m: m.register_forward_hook(lambda _m, _a, out: out.softmax(1)),
    "input of a layer": lambda m: m[2].register_forward_pre_hook(lambda _m, a: a[0] * 2 - 1),
    "output of a layer": lambda m: m[2].register_forward_hook(lambda _m, _a, out: out * 2 - 1),
    "output of the last layer": lambda m: m[4].register_forward_hook(lambda _m, _a, out: out * 2 - 1),
    "with keywords": lambda m: m[0].register_forward_pre_hook(lambda _m, a, k: ((a[0] * 2,), k), with_kwargs=True),
    "hook with keywords": lambda m: m[3].register_forward_hook(lambda _m, _a, _k, out: out + 1, with_kwargs=True),
    "in place": lambda m: m[1].register_forward_hook(tripled),
    "two in order": lambda m: [m[1].register_forward_hook(lambda _m, _a, out, n=n: out * n + n) for n in (2, 3)],
}


def answers(file: dc.OnnxFile, x: Tensor) -> np.ndarray:
    session = session_of(file.body)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def off_by(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


X, NEW = (torch.randn(n, 20, generator=torch.Generator().manual_seed(n)) for n in (64, 16))


@pytest.mark.parametrize("recipe", ["edge-int8", "edge-int4", "sparse"])
@pytest.mark.parametrize("name", ATTACH)
def test_a_file_computes_what_the_hooked_model_computes(name: str, recipe: str) -> None:
    model = dense()
    ATTACH[name](model)
    spec = load_recipe(recipe)
    spec = replace(spec, mirrored=False, sparsities=(0.3,) * bool(spec.sparsities), distill=replace(spec.distill, epochs=0))
    file = dc.compress(model, spec, target=TARGET, calibration=X)
    with torch.no_grad():
        wanted, plain = model(NEW).numpy(), dense()(NEW).numpy()
    found = off_by(answers(file, NEW), wanted)
    assert off_by(plain, wanted) > 0.3, "the hook matters"
    assert found < (0.06 if recipe == "edge-int8" else 0.25)
    assert file.parity.relative_error == pytest.approx(found, rel=1.0, abs=0.02), "and parity says how far it is off"
    assert not file.plan.reasons, "layers with hooks are compressed like all others"


def test_a_hook_that_reads_the_model_reads_its_copy() -> None:
    model = Shared()
    file = dc.compress(model, "edge-int8", target=TARGET, calibration=X)
    with torch.no_grad():
        assert off_by(answers(file, NEW), model(NEW).numpy()) < 0.06


def test_hooks_that_look_are_dropped_and_names_stay() -> None:
    model = dense()
    SEEN.clear()
    model[2].register_forward_hook(lambda _m, _a, out: SEEN.append(out))
    opened = open_model(model, {"input": X})
    looked = len(SEEN)
    opened.predict({"input": X})
    assert len(SEEN) == looked, "the copy doesn't fill the caller's list"
    assert [layer.name for layer in opened.layers()] == ["0", "2", "4"]
    assert len(model[2]._forward_hooks) == 1, "the caller's model keeps its hook"


def test_a_layer_with_a_hook_is_observed_at_its_weight() -> None:
    from dyncompress.types import InputMoment

    model = dense()
    model[2].register_forward_pre_hook(lambda _m, a: a[0] * 2)
    opened = open_model(model, {"input": X})
    assert isinstance(opened.module[2], HookedLayer)
    plain = dict(open_model(dense(), {"input": X}).observe((InputMoment(),), [{"input": X}]))
    found = dict(opened.observe((InputMoment(),), [{"input": X}]))
    torch.testing.assert_close(found["2.layer"][InputMoment()], 4 * plain["2"][InputMoment()])


def test_copies_of_an_opened_model_are_of_their_own() -> None:
    model = Shared()
    opened = open_model(model, {"x": X})
    twin = copy.deepcopy(opened.module)
    before = opened.predict({"x": NEW})[0]
    with torch.no_grad():
        twin.factor.zero_()
    assert torch.equal(opened.predict({"x": NEW})[0], before)
    torch.testing.assert_close(before, model(NEW).detach())


def test_a_forward_method_set_on_the_model_and_hooked_is_that_of_every_copy() -> None:
    import types

    from dyncompress.models.torch.opening import open_model
    from dyncompress.types import SetWeight

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model.forward = types.MethodType(lambda self, x: self[2](self[1](self[0](x))) * 2, model)
    model.register_forward_hook(lambda _m, _a, y: y + 1)
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    adapter = open_model(model, {"x": x})
    torch.testing.assert_close(adapter.predict({"x": x})[0], model(x).detach())
    other = adapter.edited([SetWeight("2", torch.zeros(3, 8), torch.zeros(3))])
    assert bool((other.predict({"x": x})[0] == 1).all()), "the copy computes with its own weights"
