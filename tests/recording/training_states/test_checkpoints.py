"""Checkpoints of torch in the forms that people write them: which state belongs to which parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states import load_training_state, training_state_of
from dyncompress.types import TrainingState


class Tower(nn.Module):
    """Layers of which several have one shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(self.norm(x))


def train(model: nn.Module, optimizers: Any, steps: int = 5) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        model.zero_grad()
        nn.functional.cross_entropy(model(torch.randint(7, (16,), generator=generator)), torch.arange(16) % 7).backward()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()


def squares(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """What Adam knows of each parameter, by name."""
    states = {name: optimizer.state.get(p) for name, p in model.named_parameters() if p.ndim > 1}
    return {k: (s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).numpy() for k, s in states.items() if s}


def check(state: TrainingState, want: dict[str, np.ndarray], drop: str = "") -> None:
    assert {name.removeprefix(drop) for name in state.parameters} == set(want)
    for name, saved in state.parameters.items():
        np.testing.assert_allclose(saved.square, want[name.removeprefix(drop)], rtol=1e-5)


def saved(path: Path, **parts: Any) -> Path:
    torch.save(parts, path)
    return path


def test_frozen_layers_are_told_apart_by_their_places(tmp_path: Path) -> None:
    model = Tower()
    for frozen in (model.blocks[0], model.embed):
        frozen.requires_grad_(False)
    every = torch.optim.Adam(model.parameters())
    train(model, every)
    check(load_training_state(saved(tmp_path / "a.pt", m=model.state_dict(), o=every.state_dict())), squares(model, every))
    some = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    train(model, some)
    state = load_training_state(saved(tmp_path / "b.pt", m=model.state_dict(), o=some.state_dict()))
    check(state, {name: square for name, square in squares(model, some).items() if "blocks" not in name})
    assert "the optimizer has 2 states of that shape, and the model 3" in state.notes[0]
    named = torch.optim.Adam([(name, p) for name, p in model.named_parameters() if p.requires_grad])
    train(model, named)
    check(load_training_state(saved(tmp_path / "c.pt", m=model.state_dict(), o=named.state_dict())), squares(model, named))


def test_groups_with_and_without_decay(tmp_path: Path) -> None:
    model = Tower()
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False))
    optimizer = torch.optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": matrices}])
    train(model, optimizer)
    check(
        load_training_state(saved(tmp_path / "a.pt", m=model.state_dict(), o=optimizer.state_dict())), squares(model, optimizer)
    )


def test_equal_shapes_in_several_groups_are_left_out_and_named_ones_are_not(tmp_path: Path) -> None:
    model = Tower()
    parts = {name: list(module.named_parameters(prefix=name)) for name, module in model.named_children()}
    top_down = [{"params": [p for _, p in part], "lr": 1e-3 / n} for n, part in enumerate(reversed(list(parts.values())), 1)]
    top_down += [{"params": [top_down[-2]["params"].pop(0)]}]  # the first block's weight in a group of its own
    optimizer = torch.optim.Adam(top_down)
    train(model, optimizer)
    state = load_training_state(saved(tmp_path / "a.pt", m=model.state_dict(), o=optimizer.state_dict()))
    check(state, {name: square for name, square in squares(model, optimizer).items() if "blocks" not in name})
    assert state.notes == ("parameters of shape [4, 4] are left out: their states lie in several groups of the optimizer",)
    named = torch.optim.Adam([{"params": part} for part in reversed(list(parts.values()))])
    train(model, named)
    check(load_training_state(saved(tmp_path / "b.pt", m=model.state_dict(), o=named.state_dict())), squares(model, named))


def test_tied_weights_are_counted_once(tmp_path: Path) -> None:
    model = Tower()
    model.embed = nn.Embedding(7, 4)
    model.head.weight = model.embed.weight
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    check(
        load_training_state(saved(tmp_path / "a.pt", m=model.state_dict(), o=optimizer.state_dict())), squares(model, optimizer)
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrapped_models_and_averaged_weights(prefix: str, tmp_path: Path) -> None:
    model = Tower()
    optimizer = torch.optim.Adam(model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer)
    average.update_parameters(model)
    train(model, optimizer)
    average.update_parameters(model)
    wrapped = {prefix + name: value for name, value in model.state_dict().items()}
    path = saved(tmp_path / "a.pt", ema=average.state_dict(), scaler=torch.amp.GradScaler("cpu").state_dict(), net=wrapped,
                 o=optimizer.state_dict(), scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict())  # fmt: skip
    state = load_training_state(path)
    check(state, squares(model, optimizer), prefix)
    for name, one in state.parameters.items():
        assert len(one.values) == 2
        assert (one.values[0] == wrapped[name].numpy()).all()
        assert (one.values[1] == average.module.state_dict()[name.removeprefix(prefix)].numpy()).all()


def test_compiled_and_replicated_modules(tmp_path: Path) -> None:
    model = Tower()
    compiled = nn.DataParallel(torch.compile(model, backend="eager"))
    optimizer = torch.optim.Adam(compiled.parameters())
    train(model, optimizer)
    path = saved(tmp_path / "a.pt", m=compiled.state_dict(), o=optimizer.state_dict())
    check(load_training_state(path), squares(model, optimizer), "module._orig_mod.")


def test_parts_of_a_model_beside_each_other(tmp_path: Path) -> None:
    """An encoder and a decoder under their own keys, with one optimizer; and two networks with two."""
    encoder, decoder = nn.Linear(7, 4), nn.Linear(4, 7)
    model = nn.Sequential(nn.Embedding(7, 7), encoder, decoder)
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    train(model, optimizer)
    parts = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    want = {f"{'encoder' if name[0] == '1' else 'decoder'}.weight": square for name, square in squares(model, optimizer).items()}
    state = load_training_state(saved(tmp_path / "a.pt", parts=parts, o=optimizer.state_dict()))
    check(state, want, "parts.")
    assert (state.parameters["parts.decoder.weight"].values[0] == decoder.weight.detach().numpy()).all()


def test_several_networks_with_optimizers_of_their_own(tmp_path: Path) -> None:
    networks = {"G": nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 7)), "D": nn.Linear(7, 7), "E": nn.Linear(7, 7)}
    optimizers = {name: torch.optim.Adam(network.parameters()) for name, network in networks.items()}
    train(nn.Sequential(nn.Embedding(7, 7), *networks.values()), list(optimizers.values()))
    weights = {f"net{name}" if name == "G" else name: network.state_dict() for name, network in networks.items()}
    states = {f"optim{name}": optimizer.state_dict() for name, optimizer in reversed(optimizers.items())}
    want = {f"{n}.{k}": square for n in networks for k, square in squares(networks[n], optimizers[n]).items()}
    state = load_training_state(saved(tmp_path / "a.pt", **weights, **states))
    check(state, {name.removeprefix("G."): square for name, square in want.items()})
    for name, network in networks.items():
        if name != "G":
            assert (state.parameters[f"{name}.weight"].values[0] == network.weight.detach().numpy()).all()
            assert len(state.parameters[f"{name}.weight"].values) == 1
    state = load_training_state(saved(tmp_path / "b.pt", **weights, states=list(states.values())))
    check(state, {name.removeprefix("G."): square for name, square in want.items() if name[0] == "G"})
    assert state.notes == ("several networks of one shape are left out: the file doesn't say whose each optimizer is",)


def test_a_bare_state_of_an_optimizer_needs_the_models_parameters(tmp_path: Path) -> None:
    model = Tower()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "opt.pt")
    with pytest.raises(InvalidRequest, match="no weights to tell its parameters apart by"):
        load_training_state(tmp_path / "opt.pt")
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    state = load_training_state(tmp_path / "opt.pt", parameters=shapes)
    check(state, squares(model, optimizer))
    assert not state.parameters["head.weight"].values
    with pytest.raises(InvalidRequest, match=r"another model's: .*make the optimizer of"):
        load_training_state(tmp_path / "opt.pt", parameters=[("other.weight", (9, 9))])


def test_half_precision_and_batch_sizes(tmp_path: Path) -> None:
    model = Tower().bfloat16()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    parts = {"m": model.state_dict(), "o": optimizer.state_dict(), "args": {"batch_size": 16}}
    path = saved(tmp_path / "a.pt", **parts, accumulate_grad_batches=4)

    state = load_training_state(path)
    assert state.batch_size == 64 and load_training_state(path, batch_size=3).batch_size == 3
    assert {p.square.dtype for p in state.parameters.values()} == {np.dtype(np.float32)}


def test_what_is_kept_is_no_view_of_the_run(tmp_path: Path) -> None:
    model = Tower()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.0, 0.0))
    train(model, optimizer)
    path = saved(tmp_path / "a.pt", m=model.state_dict(), o=optimizer.state_dict())
    states = [training_state_of(optimizer), load_training_state(path)]
    before = [[float(p.square.sum() + p.values[0].sum()) for p in state.parameters.values()] for state in states]
    path.write_bytes(b"\0" * path.stat().st_size)  # as a run that goes on does; a mapped array would change, or the process die
    train(model, optimizer)
    assert [[float(p.square.sum() + p.values[0].sum()) for p in state.parameters.values()] for state in states] == before


def test_the_last_checkpoint_of_a_folder_is_read(tmp_path: Path) -> None:
    model = Tower()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in (2, 10):
        train(model, optimizer)
        saved(tmp_path / f"epoch={epoch}.ckpt", m=model.state_dict(), o=optimizer.state_dict())
    torch.save(model.state_dict(), tmp_path / "model.bin")  # weights alone
    assert load_training_state(tmp_path).steps == 10
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidRequest, match="holds no checkpoint"):
        load_training_state(tmp_path / "nothing")
