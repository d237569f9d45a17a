"""Entropy-coded rounding without data: what a step predicts, equal slopes, feedback on assumed inputs, refusals."""

from __future__ import annotations

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.quantization import EntropyPrior, decode
from dyncompress.types import Choice, Layer, Need, Observation, Weight, WeightFisher

PLAIN = EntropyPrior(rows=1.0, mean=0.0, near=0.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(fisher=None, shape=(16, 8, 3, 3)):
    weight = normal(*shape)
    values: dict[Need, torch.Tensor] = {Weight(): weight}
    if fisher is not None:
        values[WeightFisher()] = fisher
    return weight, Observation(Layer("one", "conv2d", shape, 0), values)


def choice_of(step):
    return Choice(weight_bits=8, step=step)


def distortion(weight, new, fisher):
    return 0.5 * float((fisher * (weight - new).square()).sum())


def test_rounding_costs_what_the_step_predicts() -> None:
    fisher = torch.logspace(-1, 1, 16)[:, None, None, None].expand(16, 8, 3, 3)
    weight, observation = case(fisher)
    new = decode(PLAIN(weight, observation, choice_of(0.1)))
    assert distortion(weight, new, fisher) == pytest.approx(weight.numel() * 0.1**2 / 24, rel=0.1)


def test_without_assumed_correlation_codes_are_the_nearest() -> None:
    weight, observation = case(torch.ones(16, 8, 3, 3))
    encoded = PLAIN(weight, observation, choice_of(0.4))
    step = 0.4 / (1.01 * 1.001 * 1.01) ** 0.5  # the floors of the prior and of the Fisher information, and damping
    assert torch.equal(encoded.codes, (weight / step).round().to(torch.int8))


@pytest.mark.parametrize(("rows", "ratio"), [(1.0, 2.0), (0.5, 2**0.5), (0.0, 1.0)])
def test_a_channel_that_matters_four_times_as_much_has_half_the_step(rows: float, ratio: float) -> None:
    fisher = torch.ones(16, 8, 3, 3)
    fisher[3] = 4.0
    weight, observation = case(fisher)
    scale = EntropyPrior(rows=rows)(weight, observation, choice_of(0.2)).scale
    assert float(torch.cat([scale[:3], scale[4:]]).mean() / scale[3]) == pytest.approx(ratio, rel=0.03)


def test_at_equal_bits_steps_by_sensitivity_have_less_distortion_than_one_step() -> None:
    fisher = torch.logspace(-2, 2, 16)[:, None, None, None].expand(16, 16, 3, 3)
    weight, observation = case(fisher, (16, 16, 3, 3))

    def at(bits, rows):
        """The distortion at the step at which codes take so many bits."""
        rule, low, high = EntropyPrior(rows=rows, mean=0.0, near=0.0), 1e-2, 1e2
        for _ in range(25):
            step = (low * high) ** 0.5
            fine = entropy(rule(weight, observation, choice_of(step)).codes) > bits
            low, high = (step, high) if fine else (low, step)
        return distortion(weight, decode(rule(weight, observation, choice_of(high))), fisher)

    assert at(4.0, rows=1.0) < 0.3 * at(4.0, rows=0.0)


def entropy(codes):
    """Bits per weight, each channel by its own frequencies."""
    rows = []
    for row in codes.flatten(1):
        p = row.unique(return_counts=True)[1] / row.numel()
        rows.append(float(-(p * p.log2()).sum()))
    return sum(rows) / len(rows)


def test_feedback_helps_on_rectified_smooth_inputs_and_costs_little_on_others() -> None:
    fields = normal(200, 8, 34, 34, seed=5)
    smooth = torch.nn.functional.avg_pool2d(fields, 3, 1).relu()
    weight, observation = case(torch.ones(16, 8, 3, 3))
    encoded = EntropyPrior()(weight, observation, choice_of(0.5))
    step = encoded.scale[:, None, None, None]
    nearest = (weight / step).round() * step

    def error(new, inputs):
        return float(torch.nn.functional.conv2d(inputs, weight - new).square().mean())

    assert error(decode(encoded), smooth) < 0.6 * error(nearest, smooth)
    assert error(decode(encoded), fields) < 1.8 * error(nearest, fields)  # white and without a mean: the assumption is wrong


def test_codes_stay_within_a_byte_and_channels_that_never_moved_are_finite() -> None:
    fisher = torch.ones(16, 8, 3, 3)
    fisher[5] = 0
    weight, observation = case(fisher)
    fine = EntropyPrior()(weight, observation, choice_of(1e-6))
    assert int(fine.codes.abs().max()) <= 127 and (weight - decode(fine)).abs().max() < 0.2
    assert torch.isfinite(decode(EntropyPrior()(weight, observation, choice_of(1.0)))).all()


@pytest.mark.parametrize("fisher", [None, torch.zeros(16, 8, 3, 3)])
def test_where_nothing_was_recorded_steps_are_relative(fisher: torch.Tensor | None) -> None:
    weight, observation = case(fisher)
    multiplier = (24 * 1e-3 / weight.numel()) ** 0.5  # a thousandth of the weight's energy
    for factor in (1.0, 10.0):
        error = factor * weight - decode(PLAIN(factor * weight, observation, choice_of(multiplier)))
        assert float(error.square().sum() / (factor * weight).square().sum()) == pytest.approx(1e-3, rel=0.1)


def test_invalid_requests_are_refused() -> None:
    weight, observation = case()
    with pytest.raises(InvalidRequest, match="step is 0"):
        EntropyPrior()(weight, observation, Choice(weight_bits=8))
    with pytest.raises(InvalidRequest, match="rows is 2"):
        EntropyPrior(rows=2)
    with pytest.raises(InvalidRequest, match=r"near is 1.0; give a share in \[0, 1\)"):
        EntropyPrior(near=1.0)
