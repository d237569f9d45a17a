"""Coordinate descent on codes against a plain loop; more sweeps never raise the error."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dyncompress.quantization import Gptq, decode
from dyncompress.quantization.descent import DampedMoment, descend
from dyncompress.types import Choice, InputMoment, Layer, Observation


def problem(groups: int, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, columns first, and moments of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 3 * columns, columns, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(groups, columns, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(groups, columns, rows, generator=generator, dtype=torch.float64)
    return weight, x.mT @ x / x.shape[1]


def plain_sweep(weight: Tensor, codes: Tensor, scale: Tensor, limits: tuple[int, int], hessian: Tensor) -> Tensor:
    """Try every code at every position, one position at a time, and keep the best."""
    codes = codes.clone()
    candidates = torch.arange(limits[0], limits[1] + 1, dtype=weight.dtype)
    for g in range(len(weight)):
        for row in range(weight.shape[2]):
            for j in range(weight.shape[1]):
                options = codes[g, :, row].repeat(len(candidates), 1)
                options[:, j] = candidates
                error = weight[g, :, row] - options * scale[g, 0, row]
                codes[g, j, row] = candidates[((error @ hessian[g]) * error).sum(1).argmin()]
    return codes


@pytest.mark.parametrize(("groups", "columns"), [(1, 7), (2, 70), (1, 130)])
def test_a_sweep_is_the_plain_loop(groups: int, columns: int) -> None:
    weight, moment = problem(groups, 3, columns)
    scale = 0.5 + torch.rand(groups, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    codes = (weight / scale).round().clamp(-4, 3)
    added = 0.1 * moment.diagonal(dim1=-2, dim2=-1)
    hessian = moment + torch.diag_embed(added)
    expected = plain_sweep(weight, codes, scale, (-4, 3), hessian)
    assert torch.equal(descend(weight, codes, scale, (-4, 3), DampedMoment(moment, added)), expected)
    assert not torch.equal(expected, codes)


def test_zeros_stay_zeros() -> None:
    weight, moment = problem(1, 5, 20)
    weight = torch.where(torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5, weight, 0)
    codes = (weight / 0.7).round().clamp(-2, 1)
    scale = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    new = descend(weight, codes, scale, (-2, 1), DampedMoment(moment, torch.zeros(1, 20)))
    assert bool((new[weight == 0] == 0).all()) and not torch.equal(new, codes)


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:5"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_more_sweeps_leave_no_larger_error(bits: int, granularity: str) -> None:
    columns_first, moment = problem(2, 6, 40)
    weight = columns_first.mT.flatten(0, 1).float()
    observation = Observation(Layer("a", "linear", (12, 40), 0, groups=2), {InputMoment(): moment})
    choice, errors = Choice(weight_bits=bits, granularity=granularity), []
    for sweeps in (0, 1, 3, 8):
        encoded = Gptq(damping=0.0, sweeps=sweeps)(weight, observation, choice)
        e = (weight - decode(encoded)).double().unflatten(0, (2, -1))
        errors.append(float(((e @ moment) * e).sum()))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))
    assert errors[-1] < errors[0]
