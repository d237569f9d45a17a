from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from dyncompress.coding import code_length
from dyncompress.coding.rans import Writer
from dyncompress.coding.trellis import CLASS, NEXT, on_paths
from dyncompress.coding.weights import WeightMemory, code_weights
from dyncompress.quantization import Entropy, decode, trellis
from dyncompress.quantization.grid import Grid
from dyncompress.quantization.trellis import nearest_path
from dyncompress.types import Choice, InputMoment, Layer, Need, Observation, OutputFisher, Weight


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(*shape: int, groups: int = 1) -> tuple[torch.Tensor, Observation]:
    """Heavy-tailed weights and correlated inputs."""
    columns = int(np.prod(shape[1:]))
    weight = normal(*shape) * normal(*shape, seed=1).abs()
    x = normal(groups, 3 * columns, columns, seed=2) @ (
        torch.eye(columns) + normal(groups, columns, columns, seed=3) / columns**0.5
    )
    values: dict[Need, torch.Tensor] = {Weight(): weight, InputMoment(): x.mT @ x / x.shape[1]}
    values[OutputFisher()] = torch.rand(shape[0], generator=torch.Generator().manual_seed(4)) + 0.5
    return weight, Observation(Layer("one", "conv", tuple(shape), 0), values)


def nats(weight: torch.Tensor, new: torch.Tensor, observation: Observation) -> float:
    moment = observation[InputMoment()].double()
    e = (weight - new).double().reshape(len(moment), -1, moment.shape[1])
    return 0.5 * float((((e @ moment) * e).sum(-1).flatten() * observation[OutputFisher()].double()).sum())


def size(codes: torch.Tensor, on_paths: bool) -> int:
    """Bytes in a container."""
    array = codes.numpy()
    array, writer = np.ascontiguousarray(array.swapaxes(0, 1)) if on_paths else array, Writer()
    code_weights(writer, WeightMemory(), array.shape, array, on_paths=on_paths)
    return len(writer.finish(bytes(48), 16))


def choice_of(step: float = 1.0, **more: float) -> Choice:
    return Choice(weight_bits=8, step=step, **more)


def nearest(value: float, kind: int, odd: int) -> float:
    """The nearest of all codes of a class whose index has the given parity."""
    codes = [2 * k - kind * np.sign(k) for k in range(-60, 61) if k % 2 == odd]
    return min(codes, key=lambda code: abs(code - value))


@pytest.mark.parametrize("seed", range(4))
def test_no_path_comes_closer(seed: int) -> None:
    """Without feedback the search is exact: it is compared with all paths, also across a second start."""
    target = 3 * normal(3, 9, seed=seed).double()
    starts = {0, 5}
    result = nearest_path(target, torch.eye(9, dtype=torch.float64), starts, 127)
    for row, codes in zip(target.tolist(), result.tolist(), strict=True):
        best = np.inf
        for parities in product((0, 1), repeat=9):
            state, error = 0, 0.0
            for at, odd in enumerate(parities):
                state = 0 if at in starts else state
                error += (row[at] - nearest(row[at], CLASS[state], odd)) ** 2
                state = NEXT[state, odd]
            best = min(best, error)
        assert sum((a - b) ** 2 for a, b in zip(row, codes, strict=True)) == pytest.approx(best)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (96, 700), (64, 400, 1, 1), (40, 24, 5)], ids=str)
def test_codes_are_on_paths_that_the_coder_finds(shape: tuple[int, ...]) -> None:
    weight, observation = case(*shape)
    codes = Entropy(trellis=True)(weight, observation, choice_of()).codes
    assert codes.shape == weight.shape and on_paths(codes.numpy().swapaxes(0, 1))
    assert not on_paths(Entropy()(weight, observation, choice_of()).codes.numpy().swapaxes(0, 1))


def test_a_tenth_less_distortion_at_the_same_bytes() -> None:
    """At the bytes of the trellis, interpolated between two steps, the grid's distortion is larger by at least a tenth."""
    weight, observation = case(32, 32, 3, 3)
    new = Entropy(trellis=True)(weight, observation, choice_of(1.0))
    at, distortion = size(new.codes, on_paths=True), nats(weight, decode(new), observation)
    steps = [0.6, 0.8, 1.0, 1.2, 1.5]
    grid = [Entropy()(weight, observation, choice_of(step)) for step in steps]
    sizes = [size(e.codes, on_paths=False) for e in grid]
    assert sizes[0] > at > sizes[-1]
    logs = [np.log(nats(weight, decode(e), observation)) for e in grid]
    assert distortion < 0.9 * np.exp(np.interp(at, sizes[::-1], logs[::-1]))


@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (96, 700)], ids=str)
@pytest.mark.parametrize("step", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_plans_take_about_the_bytes_of_their_tables(shape: tuple[int, ...], step: float) -> None:
    """Tables are computed on the grid; at few bits a trellis takes more bytes at the same choice."""
    weight, observation = case(*shape)
    quantizer = Entropy(trellis=True)
    assert quantizer.sketch is not None and quantizer.sketch.sketch is None
    predicted = code_length(quantizer.sketch(weight, observation, choice_of(step)).codes.numpy(), on_paths=True) / 8
    assert size(quantizer(weight, observation, choice_of(step)).codes, on_paths=True) == pytest.approx(predicted, rel=0.08)


def test_rows_are_rounded_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, observation = case(12, 20, 3, 3)
    whole = Entropy(trellis=True)(weight, observation, choice_of())
    monkeypatch.setattr(trellis, "_AT_ONCE", 5 * 8 * 180)
    assert torch.equal(whole.codes, Entropy(trellis=True)(weight, observation, choice_of()).codes)


def test_groups_see_their_own_inputs() -> None:
    weight, observation = case(16, 12, 3, 3, groups=2)
    new = decode(Entropy(trellis=True)(weight, observation, choice_of(0.5)))
    grid = decode(Entropy()(weight, observation, choice_of(0.5)))
    assert nats(weight, new, observation) < nats(weight, grid, observation)


@pytest.mark.parametrize("most", [63, 127])
def test_codes_stay_within_the_target_s_range(most: int) -> None:
    weight, observation = case(16, 16, 3, 3)
    weight.flatten()[5] = 40.0
    codes = Entropy(trellis=True, grid=Grid(reduce_range=most == 63))(weight, observation, choice_of(1e-5)).codes
    assert codes.abs().max() <= most and codes.abs().max() > most / 2
    assert on_paths(codes.numpy().swapaxes(0, 1))


@pytest.mark.parametrize("shape", [(5, 1, 3, 3), (20, 30), (2, 1, 17, 17)], ids=str)
def test_short_paths_and_large_kernels_are_left_to_the_grid(shape: tuple[int, ...]) -> None:
    weight, observation = case(*shape)
    codes = Entropy(trellis=True)(weight, observation, choice_of()).codes
    assert torch.equal(codes, Entropy()(weight, observation, choice_of()).codes)


def test_zeros_stay_zeros() -> None:
    weight, observation = case(16, 16, 3, 3)
    weight = weight * (normal(*weight.shape, seed=9) > 0.3)
    codes = Entropy(trellis=True)(weight, observation, choice_of(sparsity=0.6)).codes
    assert (codes[weight == 0] == 0).all() and (codes[weight != 0] != 0).any()
