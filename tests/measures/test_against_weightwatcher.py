"""Exponents, and the measures computed from them, compared with weightwatcher on the same layers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import pytest
import torch

from dyncompress.measures import AlphaWeighted, DetRank, EsdPowerLaw, LogAlphaNorm, SoftRank, SpectralEntropy, Spikes, StableRank
from tests.measures.observations import observation
from tests.measures.test_esd_alpha import untrained

pytestmark = pytest.mark.oracle


def weights() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    heavy = [0.02 * generator.standard_t(3.5, shape) for shape in ((100, 300), (256, 64), (128, 128))]
    return [*untrained(), *(weight.astype(np.float32) for weight in heavy)]


@pytest.fixture(scope="module")
def details():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        package = pytest.importorskip("weightwatcher", reason="compares with weightwatcher", exc_type=ImportError)
        layers = []
        for weight in weights():
            layers.append(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
            layers[-1].weight.data.copy_(torch.from_numpy(weight))
        watcher = package.WeightWatcher(model=torch.nn.Sequential(*layers), log_level=logging.CRITICAL)
        return watcher.analyze(mp_fit=True, detX=True)


@pytest.mark.parametrize(
    ("column", "measure"),
    [
        ("alpha", EsdPowerLaw()),
        ("alpha_weighted", AlphaWeighted()),
        ("log_alpha_norm", LogAlphaNorm()),
        ("stable_rank", StableRank()),
        ("entropy", SpectralEntropy()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equal_to_a_millionth(details, column: str, measure) -> None:
    for weight, theirs in zip(weights(), details[column], strict=True):
        assert measure(observation(weight)).value == pytest.approx(theirs, rel=1e-6)


def test_the_fit_is_the_same_fit(details) -> None:
    for weight, distance, sigma in zip(weights(), details["D"], details["sigma"], strict=True):
        estimate = EsdPowerLaw()(observation(weight))
        assert (estimate.fit, estimate.stderr) == (pytest.approx(distance, rel=1e-6), pytest.approx(sigma, rel=1e-6))


def test_det_x_counts_the_same_eigenvalues(details) -> None:
    for weight, theirs in zip(weights(), details["detX_num"], strict=True):
        assert abs(DetRank()(observation(weight)).value - theirs) <= 1


def test_noise_has_no_spikes_and_their_soft_rank_by_another_rule(details) -> None:
    for weight, spikes, soft in [*zip(weights(), details["num_spikes"], details["mp_softrank"], strict=True)][:2]:
        assert Spikes()(observation(weight)).value == spikes == 0
        assert SoftRank()(observation(weight)).value == pytest.approx(soft, abs=0.03)
