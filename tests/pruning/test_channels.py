"""Elimination of channels: the error curve is that of a refit, every step is the best one, and shapes are checked."""

import itertools

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.pruning import eliminate, refit_columns

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def problem(out=5, channels=6, size=3, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    columns = channels * size
    x = torch.randn(200, columns, generator=generator).double() @ torch.randn(columns, columns, generator=generator).double()
    return (x.T @ x / 200).to(device), torch.randn(out, columns, generator=generator).double().to(device)


def error_without(moment, weight, removed, size):
    kept = torch.tensor([c for c in range(weight.shape[1]) if c // size not in removed], dtype=torch.long, device=weight.device)
    full = torch.zeros_like(weight)
    full[:, kept] = refit_columns(weight, moment, kept, damping=0.0)
    e = weight - full
    return float((e @ moment * e).sum() / (weight @ moment * weight).sum())


@pytest.mark.parametrize("size", [1, 3])
def test_the_curve_is_the_error_after_refitting(size, device):
    moment, weight = problem(size=size, device=device)
    order, error = eliminate(moment, weight, size, damping=0.0)
    assert sorted(order.tolist()) == sorted(set(order.tolist()))
    assert len(order) == len(error) == 5
    for count in range(1, 6):
        assert float(error[count - 1]) == pytest.approx(error_without(moment, weight, order[:count].tolist(), size), rel=1e-6)
    assert bool((error.diff() >= 0).all())


@pytest.mark.parametrize(("channels", "size"), [(150, 1), (30, 5)])
def test_the_curve_stays_exact_over_many_removals(channels, size, device):
    """More rows are removed than are collected before the inverse moment is updated."""
    moment, weight = problem(channels=channels, size=size, device=device)
    order, error = eliminate(moment, weight, size, channels // 10, damping=1e-3)
    hessian = moment + 1e-3 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype, device=device)
    for count in (channels // 3, channels // 2, len(order)):
        wanted = error_without(hessian, weight, set(order[:count].tolist()), size)
        assert float(error[count - 1]) == pytest.approx(wanted, rel=1e-6)
    assert bool((error.diff() >= -1e-12).all())


def test_each_step_is_the_best_one():
    moment, weight = problem()
    order, error = eliminate(moment, weight, 3, damping=0.0)
    removed = []
    for channel, value in zip(order.tolist(), error.tolist(), strict=True):
        candidates = {c: error_without(moment, weight, [*removed, c], 3) for c in range(6) if c not in removed}
        assert value == pytest.approx(min(candidates.values()), rel=1e-6)
        removed.append(channel)
    pairs = min(error_without(moment, weight, pair, 3) for pair in itertools.combinations(range(6), 2))
    assert pairs * (1 - 1e-6) <= float(error[1]) <= 3 * pairs


def test_the_kept_columns_solve_least_squares(device):
    moment, weight = problem(device=device)
    kept = torch.tensor([0, 4, 5, 11], device=device)
    expected = torch.linalg.solve(moment[kept][:, kept], moment[kept] @ weight.T).T
    torch.testing.assert_close(refit_columns(weight, moment, kept, damping=0.0), expected, rtol=1e-6, atol=1e-8)
    for same in (kept.tolist(), kept.cpu().numpy()):
        torch.testing.assert_close(refit_columns(weight, moment, same, damping=0.0), expected, rtol=1e-6, atol=1e-8)
    chosen = torch.zeros(18, dtype=torch.bool, device=device)
    chosen[kept] = True
    torch.testing.assert_close(refit_columns(weight, moment[None], chosen, damping=0.0), expected, rtol=1e-6, atol=1e-8)


def test_dead_and_repeated_channels_are_removed_first_at_no_cost():
    moment, weight = problem()
    select = torch.eye(18, dtype=torch.float64)
    select[:, 3:6], select[:, 9:12] = 0, select[:, 0:3]  # channel 1 is always zero, channel 3 repeats channel 0
    order, error = eliminate(select.T @ moment @ select, weight, 3, damping=1e-6)
    assert 1 in order[:2].tolist()
    assert {0, 3} & set(order[:2].tolist())
    assert float(error[1]) < 1e-4
    assert float(error[2]) > 10 * float(error[1])


def test_conv_weights_float32_moments_of_zeros_and_keep():
    moment, weight = problem(channels=4, size=9)
    order, error = eliminate(moment.float(), weight.float().reshape(5, 4, 3, 3), 9, keep=3)
    assert len(order) == 1
    assert error.dtype == torch.float64
    assert refit_columns(weight.float().reshape(5, 4, 3, 3), moment, torch.arange(27)).dtype == torch.float32
    order, error = eliminate(torch.zeros(36, 36), weight, 9)
    assert len(order) == 3
    assert bool(torch.isfinite(error).all())
    order, error = eliminate(moment, torch.zeros_like(weight), 9, keep=4)
    assert order.tolist() == error.tolist() == []
    order, error = eliminate(moment, torch.zeros_like(weight), 9)
    assert error.tolist() == [0, 0, 0]


def test_inputs_are_not_changed():
    moment, weight = problem()
    before = moment.clone(), weight.clone()
    eliminate(moment, weight, 3)
    refit_columns(weight, moment, torch.arange(4))
    assert torch.equal(moment, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize(("size", "keep"), [(4, 1), (0, 1), (3, 0), (3, 7)])
def test_shapes_that_do_not_fit_are_refused(size, keep):
    moment, weight = problem()
    with pytest.raises(InvalidRequest):
        eliminate(moment, weight, size, keep=keep)
    with pytest.raises(InvalidRequest):
        refit_columns(weight[:, :5], moment, torch.arange(2))
