"""Every pruner through the same properties; masks and refits against plain algebra."""

import itertools
import math

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.pruning import PRUNERS, GradualRefit, Magnitude, MagnitudeRefit, SparseGpt, refit
from dyncompress.pruning.masks import mask
from dyncompress.types import Choice, InputMoment, Layer, Observation, Pruner

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = {
    "linear": ((6, 10), 1),
    "conv1d": ((5, 4, 3), 1),
    "conv2d": ((8, 6, 3, 3), 1),
    "grouped": ((6, 2, 3), 3),
    "depthwise": ((7, 1, 3, 3), 7),
    "one_row": ((1, 9), 1),
    "one_weight": ((1, 1), 1),
    "wide": ((4, 150), 1),
}


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(name, device="cpu"):
    shape, groups = SHAPES[name]
    columns = math.prod(shape[1:])
    x = normal(groups, 3 * columns, columns, seed=1) @ normal(groups, columns, columns, seed=2)
    moment = (x.mT @ x / x.shape[1]).double().to(device)
    return normal(*shape).to(device), Observation(Layer(name, "conv2d", shape, 0, groups), {InputMoment(): moment})


def output_error(weight, approximation, moment):
    e = (weight.double() - approximation.double()).flatten(1).unflatten(0, (len(moment), -1))
    return float(((e @ moment) * e).sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.77, 0.99])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", PRUNERS)
def test_the_number_of_zeros_is_exact(method, name, sparsity, device):
    weight, observation = case(name, device)
    before = weight.clone()
    pruner = PRUNERS[method]()
    assert isinstance(pruner, Pruner)
    result = pruner(weight, observation, Choice(sparsity=sparsity))
    assert result.shape == weight.shape
    assert result.dtype == weight.dtype
    assert result.device == weight.device
    assert int((result == 0).sum()) == int(sparsity * weight.numel() + 0.5)
    assert bool(torch.isfinite(result).all())
    assert torch.equal(weight, before)
    assert result.data_ptr() != weight.data_ptr()
    if sparsity == 0:
        torch.testing.assert_close(result, weight)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2", "3:5", "4:4"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", PRUNERS)
def test_patterns_hold_in_every_run_of_inputs(method, name, pattern):
    weight, observation = case(name)
    n, m = map(int, pattern.split(":"))
    result = PRUNERS[method]()(weight, observation, Choice(pattern=pattern, sparsity=1 - n / m))
    for run in result.split(m, dim=1):
        kept = (run != 0).sum(1)
        assert bool((kept == math.ceil(n * run.shape[1] / m)).all())


@pytest.mark.parametrize("choice", [Choice(sparsity=0.5), Choice(sparsity=0.8), Choice(pattern="2:4")])
@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped", "depthwise", "wide"])
def test_refits_and_error_feedback_lower_the_output_error(name, choice):
    weight, observation = case(name)
    moment = observation[InputMoment()]
    plain, one, several, feedback = (
        output_error(weight, p(weight, observation, choice), moment)
        for p in (Magnitude(), MagnitudeRefit(steps=1), MagnitudeRefit(), SparseGpt())
    )
    assert one <= plain * (1 + 1e-9)
    assert several <= 1.1 * plain
    if name == "wide":
        assert several < one < feedback < plain


def test_many_steps_by_contribution_to_the_output_beat_few_by_magnitude():
    """With inputs of different scales, a weight's magnitude says little about what it adds to the output."""
    generator = torch.Generator().manual_seed(3)
    x = normal(600, 60, seed=4) @ normal(60, 60, seed=5) * torch.rand(60, generator=generator).mul(3).exp()
    moment = (x.mT @ x / 600).double()[None]
    weight = normal(12, 60)
    observation = Observation(Layer("a", "linear", (12, 60), 0), {InputMoment(): moment})
    errors = [
        output_error(weight, p(weight, observation, Choice(sparsity=0.8)), moment)
        for p in (GradualRefit(), GradualRefit(steps=1), MagnitudeRefit())
    ]
    assert errors[0] < 0.9 * min(errors[1:])


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(method, dtype):
    weight, observation = case("linear")
    result = PRUNERS[method]()(weight.to(dtype), observation, Choice(sparsity=0.5))
    assert result.dtype == dtype
    assert int((result == 0).sum()) == 30


@pytest.mark.parametrize("method", PRUNERS)
def test_zero_moments_dead_inputs_and_empty_weights(method):
    weight, observation = case("linear")
    pruner, choice = PRUNERS[method](), Choice(sparsity=0.5)
    plain = Magnitude()(weight, observation, choice)
    moment = observation[InputMoment()]
    nothing = Observation(observation.layer, {InputMoment(): torch.zeros_like(moment)})
    torch.testing.assert_close(pruner(weight, nothing, choice), plain)
    dead = moment.clone()
    dead[:, :4], dead[:, :, :4] = 0, 0
    assert bool(torch.isfinite(pruner(weight, Observation(observation.layer, {InputMoment(): dead}), choice)).all())
    assert not pruner(torch.zeros(6, 10), observation, choice).any()


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize(
    ("weight", "choice", "message"),
    [
        (torch.full((2, 2), torch.nan), Choice(sparsity=0.5), "NaN"),
        (torch.ones(2, 2), Choice(sparsity=1.0), "sparsity is 1.0"),
        (torch.ones(2, 2), Choice(sparsity=-0.1), "sparsity is -0.1"),
        (torch.ones(2, 2), Choice(pattern="4:2"), "n:m"),
        (torch.ones(2, 2), Choice(pattern="two"), "n:m"),
        (torch.ones(4), Choice(sparsity=0.5), "shape"),
    ],
)
def test_bad_requests_are_refused(method, weight, choice, message):
    observation = Observation(Layer("a", "linear", (2, 2), 0), {InputMoment(): torch.eye(2)[None]})
    with pytest.raises(InvalidRequest, match=message):
        PRUNERS[method]()(weight, observation, choice)


@pytest.mark.parametrize("method", ["magnitude_refit", "gradual_refit", "sparsegpt"])
def test_a_moment_of_another_layer_is_refused(method):
    weight, _ = case("linear")
    with pytest.raises(InvalidRequest, match="moment"):
        PRUNERS[method]()(weight, case("conv2d")[1], Choice(sparsity=0.5))
    with pytest.raises(InvalidRequest, match="steps"):
        MagnitudeRefit(steps=0)
    with pytest.raises(InvalidRequest, match="steps"):
        GradualRefit(steps=0)


def test_without_a_moment():
    weight, observation = case("linear")
    blind = Observation(observation.layer, {})
    choice = Choice(sparsity=0.5)
    assert torch.equal(MagnitudeRefit()(weight, blind, choice), Magnitude()(weight, blind, choice))
    with pytest.raises(InvalidRequest, match="not collected"):
        SparseGpt()(weight, blind, choice)


def test_masks_by_hand():
    score = torch.tensor([[3.0, 1.0, 1.0], [0.0, 5.0, 1.0]])
    assert mask(score, Choice(sparsity=0.5)).tolist() == [[True, False, False], [False, True, True]]
    assert mask(score, Choice(pattern="1:2")).tolist() == [[True, False, True], [False, True, True]]
    kernel = torch.arange(8.0).reshape(1, 4, 2)
    assert mask(kernel, Choice(pattern="1:4")).squeeze(0).tolist() == [[False, False]] * 3 + [[True, True]]


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("out", "inputs", "groups"), [(5, 12, 1), (6, 8, 3), (4, 1, 4)])
def test_refit_is_least_squares_row_by_row(sparsity, out, inputs, groups, device):
    weight = normal(out, inputs).double()
    x = normal(groups, 60, inputs, seed=1).double() @ normal(groups, inputs, inputs, seed=2).double()
    keep = normal(out, inputs, seed=3) > torch.tensor(sparsity).mul(2).sub(1).erfinv() * 2**0.5
    result = refit(weight.to(device), (x.mT @ x / 60).to(device), keep.to(device), damping=0.0).cpu()
    for row in range(out):
        data, kept = x[row // (out // groups)], keep[row]
        expected = torch.zeros(inputs, dtype=torch.float64)
        if kept.any():
            expected[kept] = torch.linalg.lstsq(data[:, kept], data @ weight[row]).solution
        torch.testing.assert_close(result[row], expected, rtol=1e-6, atol=1e-8)


def test_refit_of_a_singular_moment_is_still_a_minimum():
    x = normal(4, 10, seed=1).double()  # fewer rows than inputs: many minima
    weight, keep = normal(7, 10), normal(7, 10, seed=2) > 0
    result = refit(weight, (x.T @ x / 4)[None], keep, damping=0.0).double()
    for row in range(7):
        best = torch.linalg.lstsq(x[:, keep[row]], x @ weight[row].double(), driver="gelsd").solution
        error = (x @ (weight[row].double() - result[row])).square().sum()
        least = (x @ weight[row].double() - x[:, keep[row]] @ best).square().sum()
        assert float(error) <= float(least) + 1e-5 * float((x @ weight[row].double()).square().sum())


def test_refit_of_a_mask_that_keeps_everything_or_nothing():
    weight, observation = case("conv2d")
    moment = observation[InputMoment()]
    torch.testing.assert_close(refit(weight, moment, torch.ones_like(weight, dtype=torch.bool)), weight)
    assert not refit(weight, moment, torch.zeros_like(weight, dtype=torch.bool)).any()
    with pytest.raises(InvalidRequest):
        refit(weight, moment, torch.ones(8, 54, dtype=torch.bool))


def test_refit_in_small_batches_is_the_same(monkeypatch):
    weight, observation = case("conv2d")
    keep = normal(*weight.shape, seed=3) > 0.3
    whole = refit(weight, observation[InputMoment()], keep)
    monkeypatch.setattr("dyncompress.pruning.least_squares._ENTRIES_AT_ONCE", 1)
    torch.testing.assert_close(refit(weight, observation[InputMoment()], keep), whole)


def test_one_weight_of_a_row_is_pruned_as_optimal_brain_surgeon_says():
    x = normal(30, 4, seed=1).double() @ normal(4, 4, seed=2).double()
    moment = (x.T @ x / 30)[None]
    weight = normal(1, 4)
    observation = Observation(Layer("a", "linear", (1, 4), 0), {InputMoment(): moment})
    result = SparseGpt(damping=0.0)(weight, observation, Choice(sparsity=0.25))
    pruned = int(torch.nonzero(result[0] == 0))
    # Columns before the pruned one are fixed, those after it compensate for it.
    rest = list(range(pruned + 1, 4))
    expected = weight[0].double().clone()
    expected[pruned] = 0
    if rest:
        expected[rest] += weight[0, pruned].double() * torch.linalg.solve(moment[0][rest][:, rest], moment[0][rest][:, pruned])
    torch.testing.assert_close(result[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_magnitude_refit_against_all_masks():
    x = normal(40, 5, seed=1).double() @ normal(5, 5, seed=2).double()
    moment = (x.T @ x / 40)[None]
    ours, best, whole = 0.0, 0.0, 0.0
    for seed in range(8):
        weight = normal(1, 5, seed=seed)
        observation = Observation(Layer("a", "linear", (1, 5), 0), {InputMoment(): moment})
        errors = []
        for zeros in itertools.combinations(range(5), 2):
            keep = torch.ones(1, 5, dtype=torch.bool)
            keep[0, list(zeros)] = False
            errors.append(output_error(weight, refit(weight, moment, keep, 0.0), moment))
        error = output_error(weight, MagnitudeRefit(damping=0.0)(weight, observation, Choice(sparsity=0.4)), moment)
        assert error >= min(errors) * (1 - 1e-6) - 1e-9
        ours, best, whole = ours + error, best + min(errors), whole + output_error(weight, torch.zeros(1, 5), moment)
    assert ours - best < 0.25 * (whole - best)
