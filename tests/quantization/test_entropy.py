from __future__ import annotations

import math

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.quantization import Entropy, decode
from dyncompress.types import Choice, InputMoment, Layer, Need, Observation, OutputFisher, Weight


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(rows=8, columns=24, fisher=None, input_scale=1.0, white=False):
    weight = normal(rows, columns)
    mixing = torch.eye(columns) if white else normal(columns, columns, seed=2)
    x = normal(1, 4000, columns, seed=1) @ mixing * input_scale
    values: dict[Need, torch.Tensor] = {Weight(): weight, InputMoment(): x.mT @ x / 4000}
    if fisher is not None:
        values[OutputFisher()] = fisher
    return weight, Observation(Layer("one", "linear", (rows, columns), 0), values)


def choice_of(step=0.05, **more):
    return Choice(weight_bits=8, step=step, **more)


def nats(weight, new, observation):
    e = (weight - new).double()
    power = (e @ observation[InputMoment()][0].double() * e).sum(1)
    return 0.5 * float((power * observation[OutputFisher()].double()).sum())


def test_rounding_costs_what_the_step_predicts() -> None:
    """Fine steps and inputs of equal power: an error distributed uniformly over one step costs step^2 / 24 nats per weight."""
    weight, observation = case(64, 48, white=True, fisher=torch.rand(64, generator=torch.Generator().manual_seed(3)) + 0.5)
    choice = choice_of(0.3)
    cost = nats(weight, decode(Entropy(damping=0.0)(weight, observation, choice)), observation)
    assert cost == pytest.approx(weight.numel() * choice.step**2 / 24, rel=0.1)


def test_a_channel_that_matters_four_times_as_much_has_half_the_step() -> None:
    fisher = torch.ones(8)
    fisher[3] = 4.0
    weight, observation = case(fisher=fisher)
    scale = Entropy(rows=1.0)(weight, observation, choice_of(0.3)).scale
    others = torch.cat([scale[:3], scale[4:]])
    assert float(others.mean() / scale[3]) == pytest.approx(2.0, rel=0.02)
    whole = Entropy(rows=0.0)(weight, observation, choice_of(0.3)).scale
    assert float(whole.max() / whole.min()) == pytest.approx(1.0, rel=0.05)


def test_larger_inputs_take_smaller_steps() -> None:
    """The step is in units of the output error: with inputs ten times larger it is a tenth."""
    weight, small = case(fisher=torch.ones(8))
    _, large = case(fisher=torch.ones(8), input_scale=10.0)
    ratio = Entropy()(weight, small, choice_of(0.3)).scale / Entropy()(weight, large, choice_of(3.0)).scale
    assert torch.allclose(ratio, torch.ones(8), rtol=1e-3)


def test_larger_steps_leave_more_zeros_and_more_distortion() -> None:
    weight, observation = case(fisher=torch.ones(8))
    encodings = [Entropy()(weight, observation, choice_of(step)) for step in (0.3, 1.0, 3.0, 9.0)]
    zeros = [float((e.codes == 0).float().mean()) for e in encodings]
    distortion = [nats(weight, decode(e), observation) for e in encodings]
    assert zeros == sorted(zeros) and distortion == sorted(distortion) and zeros[-1] > 0.5
    assert all(e.codes.dtype == torch.int8 and e.bits == 8 and e.scale.shape == (8,) for e in encodings)


def test_error_feedback_beats_rounding_to_nearest() -> None:
    weight, observation = case(32, 48, fisher=torch.ones(32))
    encoded = Entropy()(weight, observation, choice_of(1.0))
    nearest = (weight / encoded.scale[:, None]).round() * encoded.scale[:, None]
    assert nats(weight, decode(encoded), observation) < 0.5 * nats(weight, nearest, observation)


def test_codes_stay_within_a_byte_however_fine_the_step() -> None:
    weight, observation = case(fisher=torch.ones(8))
    encoded = Entropy()(weight, observation, choice_of(1e-9))
    assert int(encoded.codes.abs().max()) == 127
    assert float((decode(encoded) - weight).abs().max()) < 0.05 * float(weight.abs().max())


def test_zeros_stay_zeros() -> None:
    weight, observation = case(fisher=torch.ones(8))
    weight[:, ::3] = 0.0
    codes = Entropy()(weight, observation, choice_of(0.1, sparsity=0.34)).codes
    assert not codes[:, ::3].any() and codes.any()


def test_groups_are_rounded_independently() -> None:
    weight = normal(6, 10)
    x = normal(2, 300, 10, seed=4)
    moment, fisher = x.mT @ x / 300, torch.ones(6)

    def encode(rows, moment, groups):
        values = {Weight(): rows, InputMoment(): moment, OutputFisher(): fisher[: len(rows)]}
        return Entropy()(rows, Observation(Layer("g", "conv1d", tuple(rows.shape), 0, groups), values), choice_of(0.1))

    whole, parts = encode(weight, moment, 2), [encode(weight[i : i + 3], moment[i // 3][None], 1) for i in (0, 3)]
    assert torch.equal(whole.codes, torch.cat([p.codes for p in parts]))
    assert torch.allclose(whole.scale, torch.cat([p.scale for p in parts]))


def test_without_fisher_information_an_error_is_relative_to_the_output() -> None:
    weight, observation = case(64, 48, white=True)
    new = decode(Entropy(damping=0.0)(weight, observation, choice_of(1e-2)))
    moment = observation[InputMoment()][0].double()
    error, power = (float((e @ moment * e).sum()) for e in ((weight - new).double(), weight.double()))
    assert error / power == pytest.approx(weight.numel() * 1e-2**2 / 24, rel=0.15)


def test_embeddings_have_no_inputs_to_observe() -> None:
    weight = normal(20, 6)
    observation = Observation(Layer("table", "embedding", (20, 6), 0), {Weight(): weight})
    encoded = Entropy()(weight, observation, choice_of(0.01))
    assert float((decode(encoded) - weight).norm() / weight.norm()) < 0.1


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan])
def test_a_step_is_positive(step) -> None:
    weight, observation = case()
    with pytest.raises(InvalidRequest, match="step"):
        Entropy()(weight, observation, choice_of(step))


def test_rows_is_a_share() -> None:
    with pytest.raises(InvalidRequest, match="rows is 2"):
        Entropy(rows=2.0)
