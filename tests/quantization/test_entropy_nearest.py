"""Entropy-coded rounding without data: what a step promises, equal slopes between channels, gains, refusals."""

from __future__ import annotations

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.quantization import EntropyNearest, decode
from dyncompress.types import Choice, Layer, Need, Observation, Weight, WeightFisher


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(fisher=None, shape=(16, 8, 3, 3)):
    weight = normal(*shape)
    values: dict[Need, torch.Tensor] = {Weight(): weight} | ({} if fisher is None else {WeightFisher(): fisher})
    return weight, Observation(Layer("one", "conv2d", shape, 0), values)


def coded(step):
    return Choice(weight_bits=8, step=step)


def harm(weight, new, fisher):
    return 0.5 * float((fisher * (weight - new).square()).sum())


def test_rounding_costs_what_the_step_promises() -> None:
    fisher = normal(16, 8, 3, 3, seed=1).square() * torch.logspace(-1, 1, 16)[:, None, None, None]
    weight, observation = case(fisher)
    new = decode(EntropyNearest()(weight, observation, coded(0.1)))
    assert harm(weight, new, fisher) == pytest.approx(weight.numel() * 0.1**2 / 24, rel=0.1)


@pytest.mark.parametrize(("rows", "ratio"), [(1.0, 2.0), (0.5, 2**0.5), (0.0, 1.0)])
def test_a_channel_that_matters_four_times_as_much_has_half_the_step(rows: float, ratio: float) -> None:
    fisher = torch.ones(16, 8, 3, 3)
    fisher[3] = 4.0
    weight, observation = case(fisher)
    scale = EntropyNearest(rows=rows)(weight, observation, coded(0.2)).scale
    assert float(torch.cat([scale[:3], scale[4:]]).mean() / scale[3]) == pytest.approx(ratio, rel=0.02)


def test_at_equal_bits_steps_by_sensitivity_do_less_harm_than_one_step() -> None:
    fisher = torch.logspace(-2, 2, 16)[:, None, None, None].expand(16, 32, 3, 3)
    weight, observation = case(fisher, (16, 32, 3, 3))

    def at(bits, rows):
        """The harm at which codes take so many bits."""
        low, high = 1e-3, 1e3
        for _ in range(40):
            step = (low * high) ** 0.5
            encoded = EntropyNearest(rows=rows)(weight, observation, coded(step))
            low, high = (step, high) if entropy(encoded.codes) > bits else (low, step)
        return harm(weight, decode(encoded), fisher)

    assert at(4.0, rows=1.0) < 0.3 * at(4.0, rows=0.0)


def entropy(codes):
    """Bits a weight, each channel by its own frequencies."""
    rows = []
    for row in codes.flatten(1):
        p = row.unique(return_counts=True)[1] / row.numel()
        rows.append(float(-(p * p.log2()).sum()))
    return sum(rows) / len(rows)


def test_bold_steps_leave_zeros_and_the_gain_makes_up_for_them() -> None:
    weight, observation = case(torch.ones(16, 8, 3, 3))
    found = [EntropyNearest()(weight, observation, coded(step)) for step in (0.3, 1.0, 2.5)]
    zeros = [float((e.codes == 0).float().mean()) for e in found]
    assert zeros == sorted(zeros) and zeros[-1] > 0.7
    for encoded, step in zip(found, (0.3, 1.0, 2.5), strict=True):
        plain = encoded.codes * (step / (1 + 1e-3) ** 0.5)
        assert harm(weight, decode(encoded), torch.ones(())) <= harm(weight, plain, torch.ones(())) + 1e-6
        assert encoded.codes.dtype == torch.int8 and encoded.bits == 8 and encoded.scale.shape == (16,)


def test_codes_stay_within_a_byte_and_channels_that_never_moved_are_finite() -> None:
    fisher = torch.ones(16, 8, 3, 3)
    fisher[5] = 0
    weight, observation = case(fisher)
    fine = EntropyNearest()(weight, observation, coded(1e-6))
    assert int(fine.codes.abs().max()) <= 127 and (weight - decode(fine)).abs().max() < 0.05
    assert torch.isfinite(decode(EntropyNearest()(weight, observation, coded(1.0)))).all()


@pytest.mark.parametrize("fisher", [None, torch.zeros(16, 8, 3, 3)])
def test_where_nothing_was_recorded_steps_are_relative(fisher: torch.Tensor | None) -> None:
    weight, observation = case(fisher)
    knob = (24 * 1e-3 / weight.numel()) ** 0.5  # a thousandth of the weight's energy
    for factor in (1.0, 10.0):
        lost = factor * weight - decode(EntropyNearest()(factor * weight, observation, coded(knob)))
        assert float(lost.square().sum() / (factor * weight).square().sum()) == pytest.approx(1e-3, rel=0.1)


def test_senseless_requests_are_refused() -> None:
    weight, observation = case()
    with pytest.raises(InvalidRequest, match="step is 0"):
        EntropyNearest()(weight, observation, Choice(weight_bits=8))
    with pytest.raises(InvalidRequest, match="rows is 2"):
        EntropyNearest(rows=2)
