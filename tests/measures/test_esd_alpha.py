"""Spectral tail exponents: golden values of untrained layers, anchors of noise, exact Pareto spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyncompress.measures import EsdMid, EsdPeak, EsdPowerLaw, StableRank
from dyncompress.types import Layer, Observation, Spectrum
from tests.measures.observations import observation


def untrained() -> tuple[np.ndarray, np.ndarray]:
    """The weights of a two-layer network of torch, seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = torch.nn.Linear(512, 256), torch.nn.Linear(256, 128)
    return first.weight.detach().numpy(), second.weight.detach().numpy()


def pareto_spectrum(alpha: float, n: int = 2000) -> Observation:
    """Exact quantiles of a density x^-alpha as the eigenvalues of a square matrix."""
    values = np.sort(((np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1)))
    return Observation(Layer("layer", "linear", (n, n), n * n), {Spectrum("slices"): [values]})


@pytest.mark.parametrize(("index", "alpha", "rank"), [(0, 7.272, 89.892), (1, 7.186, 43.126)])
def test_golden_values_of_untrained_linear_layers(index: int, alpha: float, rank: float) -> None:
    one = observation(untrained()[index])
    estimate = EsdPowerLaw()(one)
    assert estimate.value == pytest.approx(alpha, abs=1e-3)
    assert not estimate.valid  # above 6: no tail
    assert StableRank()(one).value == pytest.approx(rank, abs=1e-3)


@pytest.mark.parametrize(("columns", "alpha"), [(512, 2.13), (768, 2.47), (1024, 2.71), (2048, 3.47), (4096, 4.49)])
def test_noise_reads_its_aspect_ratio(columns: int, alpha: float) -> None:
    one = observation(np.random.default_rng(0).standard_normal((512, columns)))
    assert EsdMid()(one).value == pytest.approx(alpha, abs=0.05)


@pytest.mark.parametrize(("alpha", "mid", "threshold"), [(2, 1.98, 2.00), (3, 3.01, 3.00), (4, 4.05, 4.06)])
def test_pareto_eigenvalues(alpha: float, mid: float, threshold: float) -> None:
    one = pareto_spectrum(alpha)
    for measure, sampled in ((EsdMid(), mid), (EsdPowerLaw(), threshold), (EsdPeak(), threshold)):
        estimate = measure(one)
        # the published values are from one random sample, these are exact quantiles: they agree within the sample's error
        assert estimate.value == pytest.approx(alpha, abs=0.02 * alpha)
        assert abs(estimate.value - sampled) < 3 * (alpha - 1) / np.sqrt(1000)


def test_mid_equals_the_formula() -> None:
    one = observation(np.random.default_rng(3).standard_normal((60, 91)))
    values = one[Spectrum("slices")][0]
    upper = values[len(values) // 2 :]
    assert EsdMid()(one).value == pytest.approx(1 + len(upper) / np.log(upper / upper[0]).sum(), rel=1e-9)


def test_slices_are_pooled_and_structural_zeros_are_not_eigenvalues() -> None:
    weight = np.random.default_rng(4).standard_normal((64, 16, 3, 3))
    one = observation(weight)
    padded = [np.concatenate([np.zeros(48), values]) for values in one[Spectrum("slices")]]  # W W^T itself: 64 eigenvalues
    assert EsdPowerLaw()(Observation(one.layer, {Spectrum("slices"): padded})) == EsdPowerLaw()(one)
    mid = EsdMid()(one)
    assert mid.n == 9 * 16 - 9 * 16 // 2
    assert not any("rank" in note for note in mid.notes)


def test_missing_rank_is_reported_not_logged() -> None:
    generator = np.random.default_rng(5)
    lacking = generator.standard_normal((100, 70)) @ generator.standard_normal((70, 200))
    estimate = EsdMid()(observation(lacking))
    assert any("30 eigenvalues are zero" in note for note in estimate.notes)
    assert np.isfinite(estimate.value)
    nearly_none = generator.standard_normal((100, 20)) @ generator.standard_normal((20, 200))
    assert not EsdMid()(observation(nearly_none)).valid


def test_peak_rule_with_and_without_its_lower_end() -> None:
    # a bulk around 1 whose fullest bin is the peak, and a wide low part below it that a free threshold may choose
    generator = np.random.default_rng(6)
    values = np.sort(np.concatenate([generator.uniform(0.2, 1, 300), generator.pareto(3, 700) + 1]))
    one = Observation(Layer("layer", "linear", (1000, 1000), 10**6), {Spectrum("slices"): [values]})
    fixed, effective = EsdPeak()(one), EsdPeak(lowest=0.0)(one)
    assert effective.fit <= fixed.fit  # a wider range can only fit better
    assert EsdPowerLaw()(one).fit <= effective.fit


def test_few_eigenvalues_are_invalid() -> None:
    generator = np.random.default_rng(7)
    for measure in (EsdMid(), EsdPowerLaw(), EsdPeak()):
        assert np.isnan(measure(observation(generator.standard_normal((6, 40)))).value)
        assert not measure(observation(generator.standard_normal((30, 40)))).valid


@pytest.mark.parametrize("columns", [3, 40, 300])
def test_stable_rank_against_the_norms(columns: int) -> None:
    weight = np.random.default_rng(8).standard_normal((40, columns))
    wanted = np.linalg.norm(weight) ** 2 / np.linalg.norm(weight, 2) ** 2
    assert StableRank()(observation(weight)).value == pytest.approx(wanted, rel=1e-9)
    assert StableRank()(observation(np.outer(weight[:, 0], weight[0]))).value == pytest.approx(1.0, abs=1e-9)


def test_the_best_threshold_on_noise_is_a_matter_of_luck() -> None:
    alphas = [
        EsdPowerLaw()(observation(np.random.default_rng(9).standard_normal((256, columns)))).value
        for columns in (256, 384, 512, 1024)
    ]
    assert min(alphas) > 4 and max(alphas) > 1.5 * min(alphas)


def test_the_limits_of_the_peak_in_the_public_codes_keep_every_low_threshold() -> None:
    """Their lower end is log10(0.95 peak), below every eigenvalue where the peak is below 1."""
    values = observation(np.random.default_rng(10).standard_normal((300, 400)) / 200)[Spectrum("slices")][0]
    counts, edges = np.histogram(np.log10(values), bins=100)
    peak = 10 ** edges[np.argmax(counts)]
    assert np.log10(0.95 * peak) < values[0]
    one = Observation(Layer("layer", "linear", (300, 400), 120_000), {Spectrum("slices"): [values]})
    theirs = [v for v in values[:-1] if np.log10(0.95 * peak) <= v <= 1.5 * peak]
    best = min(theirs, key=lambda x: tail_distance(values[values >= x])[1])
    assert EsdPeak(lowest=0.0)(one).value == pytest.approx(tail_distance(values[values >= best])[0], rel=1e-6)


def tail_distance(tail: np.ndarray) -> tuple[float, float]:
    """Exponent and distance of a tail that begins at its first value."""
    alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
    return alpha, np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(len(tail)) / len(tail)).max()
