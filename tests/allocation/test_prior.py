"""The prior on sensitivities, compared with conditioning of the joint Gaussian, its dense likelihood, and simulations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from dyncompress.allocation import Evidence, Prior, learn_prior, posterior, prior_from_table, prior_to_table
from dyncompress.allocation.prior_learning import LEVEL, MEDIAN, WIDTH
from dyncompress.errors import InvalidRequest

NAMES = ("hill", "stable_rank", "depth", "fan_in", "kurtosis", "farms")


def some_prior(seed: int, d: int = 3) -> Prior:
    rng = np.random.default_rng(seed)
    square = np.cov(rng.normal(size=(d, 4))).reshape(d, d)
    return Prior(NAMES[:d], 1.5, 4.0, rng.normal(size=d), (square + square.T) / 2, rng.uniform(0.2, 2), ("a", "b"))


def some_scores(rng: np.random.Generator, layers: int, d: int) -> np.ndarray:
    return np.clip(rng.normal(size=(layers, d)), -2, 2)


def some_probes(rng: np.random.Generator, layers: int) -> dict[int, tuple[float, float]]:
    where = rng.permutation(layers)[: rng.integers(1, layers + 1)]
    return {int(layer): (float(rng.normal(2, 2)), float(rng.exponential(0.5))) for layer in where}


def drawn(
    rng: np.random.Generator, name: str, beta: np.ndarray, omega: float, tau: float, layers: int, noise: float = 0.2
) -> tuple[Evidence, np.ndarray]:
    """A network drawn from the model, and the true log sensitivities behind its noisy probes."""
    scores, own = some_scores(rng, layers, len(beta)), beta + omega * rng.normal(size=len(beta))
    truth = rng.normal(0, 2) + scores @ own + tau * rng.normal(size=layers)
    variance = noise * rng.uniform(0.5, 1.5, layers)
    return Evidence(name, scores, truth + np.sqrt(variance) * rng.normal(size=layers), variance), truth


def zoo(seed: int, beta: np.ndarray, networks: int = 8, layers: int = 20, omega: float = 0.3, tau: float = 0.8) -> list[Evidence]:
    rng = np.random.default_rng(seed)
    return [drawn(rng, f"net{n}", beta, omega, tau, layers)[0] for n in range(networks)]


def conditioned(prior: Prior, scores: np.ndarray, probed: dict[int, tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance of s = a + Z b + u: the joint covariance written out, one dense solve."""
    design = np.column_stack([np.ones(len(scores)), scores])
    line = np.zeros((design.shape[1], design.shape[1]))
    line[0, 0], line[1:, 1:] = prior.intercept_variance, prior.covariance
    mean = design @ np.array([prior.intercept, *prior.coefficients])
    covariance = design @ line @ design.T + prior.spread * np.eye(len(scores))
    at = list(probed)
    observed_covariance = covariance[np.ix_(at, at)] + np.diag([probed[layer][1] for layer in at])
    gain = covariance[:, at] @ np.linalg.inv(observed_covariance)
    result = mean + gain @ (np.array([probed[layer][0] for layer in at]) - mean[at])
    return result, covariance - gain @ covariance[at]


def test_one_feature_by_hand() -> None:
    prior = Prior(("hill",), 0.0, 0.0, np.array([0.5]), np.array([[2.0]]), 1.0, ("a",))
    result = posterior(prior, np.array([[2.0], [1.0]]), {0: (4.0, 1.0)})
    slope = (0.5 / 2 + 2 * 4 / 2) / (1 / 2 + 4 / 2)  # conjugate: precisions 1/2 and z^2 / (tau^2 + v) = 4/2
    variance = 1 / (1 / 2 + 4 / 2)
    np.testing.assert_allclose(result.log, [2 * slope + (4 - 2 * slope) / 2, slope], rtol=1e-12)
    np.testing.assert_allclose(result.variance, [1 / 2 + 4 * variance / 4, 1 + variance], rtol=1e-12)
    np.testing.assert_allclose(result.theory, [1 - result.variance[0] / 1.0, 1.0], rtol=1e-12)


@given(st.integers(0, 10_000))
def test_no_probe_and_a_probe_of_infinite_variance_leave_the_prior(seed: int) -> None:
    prior, rng = some_prior(seed), np.random.default_rng(seed)
    scores = some_scores(rng, 7, 3)
    bare = posterior(prior, scores, {})
    np.testing.assert_allclose(bare.log, prior.intercept + scores @ prior.coefficients, rtol=1e-12, atol=1e-12)
    expected = prior.intercept_variance + prior.spread + np.einsum("li,ij,lj->l", scores, prior.covariance, scores)
    np.testing.assert_allclose(bare.variance, expected, rtol=1e-9)
    assert bare.theory.tolist() == [1.0] * 7
    probed = some_probes(rng, 6)
    with_none, without = posterior(prior, scores, {**probed, 6: (9.0, np.inf)}), posterior(prior, scores, probed)
    for field in ("log", "variance", "theory"):
        np.testing.assert_array_equal(getattr(with_none, field), getattr(without, field))


@given(st.integers(0, 10_000))
def test_it_is_the_conditional_law_of_the_joint_gaussian(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d, layers = int(rng.integers(0, 5)), int(rng.integers(1, 12))
    prior, scores = some_prior(seed, d), some_scores(rng, layers, d)
    probed = some_probes(rng, layers)
    result, (mean, covariance) = posterior(prior, scores, probed), conditioned(prior, scores, probed)
    np.testing.assert_allclose(result.log, mean, atol=1e-9)
    np.testing.assert_allclose(result.variance, np.diag(covariance), atol=1e-9)
    for layer, (rate, noise) in probed.items():
        moved = posterior(prior, scores, {**probed, layer: (rate + 1, noise)})
        assert moved.log[layer] - result.log[layer] == pytest.approx(1 - result.theory[layer], abs=1e-9)


@given(st.integers(0, 10_000))
def test_an_exact_probe_has_the_last_word(seed: int) -> None:
    prior, rng = some_prior(seed), np.random.default_rng(seed)
    scores, probed = some_scores(rng, 8, 3), some_probes(rng, 8)
    layer = next(iter(probed))
    exact = posterior(prior, scores, {**probed, layer: (3.25, 0.0)})
    assert exact.log[layer] == pytest.approx(3.25, rel=1e-12)
    assert exact.variance[layer] == exact.theory[layer] == 0.0
    near = posterior(prior, scores, {**probed, layer: (3.25, 1e-13)})
    assert near.variance[layer] == pytest.approx(1e-13, rel=1e-6) and near.theory[layer] < 1e-12


@given(st.integers(0, 10_000), st.floats(0, 3), st.floats(0, 1))
def test_a_better_probe_never_raises_the_share_of_theory(seed: int, noise: float, share: float) -> None:
    prior, rng = some_prior(seed), np.random.default_rng(seed)
    scores, probed = some_scores(rng, 8, 3), some_probes(rng, 8)
    layer = next(iter(probed))
    worse, better = (posterior(prior, scores, {**probed, layer: (1.0, v)}) for v in (noise, share * noise))
    assert better.theory[layer] <= worse.theory[layer] + 1e-12
    assert (better.variance <= worse.variance + 1e-12).all()
    assert (better.theory >= 0).all() and (better.theory <= 1).all()


@given(st.integers(0, 10_000))
def test_a_posterior_permutes_with_the_layers(seed: int) -> None:
    prior, rng = some_prior(seed), np.random.default_rng(seed)
    scores, probed, order = some_scores(rng, 8, 3), some_probes(rng, 8), rng.permutation(8)
    place = {int(layer): at for at, layer in enumerate(order)}
    straight = posterior(prior, scores, probed)
    mixed = posterior(prior, scores[order], {place[layer]: probe for layer, probe in probed.items()})
    for field in ("log", "variance", "theory"):
        np.testing.assert_allclose(getattr(mixed, field), getattr(straight, field)[order], atol=1e-10)


def dense(evidence: list[Evidence], widths: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Penalised restricted likelihood, levels, and posterior of beta with its covariance: one matrix over all layers."""
    ridge, between, spread = MEDIAN * np.exp(WIDTH * widths)
    y, Z = np.concatenate([e.log_rate for e in evidence]), np.concatenate([e.scores for e in evidence])
    owner = np.concatenate([np.full(len(e.log_rate), n) for n, e in enumerate(evidence)])
    X = np.eye(len(evidence))[owner]
    same = owner[:, None] == owner
    covariance = ridge * Z @ Z.T + between * same * (Z @ Z.T) + np.diag(spread + np.concatenate([e.variance for e in evidence]))
    inverse = np.linalg.inv(covariance)
    information = X.T @ inverse @ X
    levels = np.linalg.solve(information, X.T @ inverse @ y)
    rest = y - X @ levels
    projected = inverse - inverse @ X @ np.linalg.solve(information, X.T @ inverse)
    loss = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1] + rest @ inverse @ rest + widths @ widths
    coefficients = ridge * Z.T @ projected @ y
    uncertain = ridge * np.eye(Z.shape[1]) - ridge**2 * Z.T @ projected @ Z
    return float(loss) / 2, levels, np.vstack([coefficients, uncertain])


def test_learning_maximises_the_dense_likelihood() -> None:
    evidence = zoo(5, np.array([0.8, -0.3]), networks=4, layers=9)
    evidence[1] = replace(evidence[1], variance=np.zeros(9))
    prior = learn_prior(evidence, NAMES[:2])
    best = minimize(lambda w: dense(evidence, w)[0], np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    _, levels, beta = dense(evidence, best.x)
    _, between, spread = MEDIAN * np.exp(WIDTH * best.x)
    assert prior.spread == pytest.approx(spread, rel=1e-4)
    np.testing.assert_allclose(prior.coefficients, beta[0], atol=1e-4)
    np.testing.assert_allclose(prior.covariance, beta[1:] + between * np.eye(2), atol=1e-4)
    assert prior.intercept == pytest.approx(levels.mean(), abs=1e-4)
    assert prior.intercept_variance == pytest.approx((1 + 1 / 4) * (LEVEL + 4 * levels.var()) / 4, rel=1e-4)


def test_learning_recovers_the_law_that_data_came_from() -> None:
    beta, omega, tau = np.array([0.9, -0.6, 0.3, 0.0]), 0.3, 0.8
    for seed in range(5):
        prior = learn_prior(zoo(seed, beta, networks=12, omega=omega, tau=tau), NAMES[:4])
        layer, coefficient = tau**2 + 0.2, omega**2 + (tau**2 + 0.2) / 20  # variance of a residual, and of one network's estimate
        assert (np.abs(prior.coefficients - beta) < 3 * np.sqrt(coefficient / 12)).all()
        assert abs(prior.spread - tau**2) < 3 * layer * np.sqrt(2 / (12 * 15))  # 20 layers minus 5 unknowns, 12 times
        between = np.diag(prior.covariance) - coefficient / 12
        assert (np.abs(between - omega**2) < 3 * coefficient * np.sqrt(2 / 48)).all()


@pytest.mark.slow
def test_intervals_for_a_new_network_hold_what_they_promise() -> None:
    rng, beta, held = np.random.default_rng(11), np.array([0.8, -0.4, 0.0]), []
    for repeat in range(60):
        prior = learn_prior(zoo(100 + repeat, beta), NAMES[:3])
        for name in ("new", "newer", "newest"):
            network, truth = drawn(rng, name, beta, 0.3, 0.8, 15)
            probed = {k: (float(network.log_rate[k]), float(network.variance[k])) for k in rng.permutation(15)[:5].tolist()}
            result, layer = posterior(prior, network.scores, probed), int(rng.integers(15))
            held.append(abs(result.log[layer] - truth[layer]) < 1.6449 * np.sqrt(result.variance[layer]))
    assert abs(np.mean(held) - 0.9) < 3 * np.sqrt(0.9 * 0.1 / len(held))


@pytest.mark.slow
def test_a_prior_from_shuffled_scores_predicts_no_better_than_none() -> None:
    beta, rng, errors = np.array([0.9, -0.6, 0.3]), np.random.default_rng(7), []
    for seed in range(12):
        *known, new = zoo(200 + seed, beta, networks=9)
        shuffled = [replace(e, scores=rng.permutation(e.scores)) for e in known]
        fitted, mixed = learn_prior(known, NAMES[:3]), learn_prior(shuffled, NAMES[:3])
        assert (np.abs(mixed.coefficients) < 3 * np.sqrt(np.diag(mixed.covariance))).all()
        assert np.abs(mixed.coefficients).max() < 0.5 * np.abs(fitted.coefficients).max()
        errors.append([np.var(new.log_rate - new.scores @ c) for c in (fitted.coefficients, mixed.coefficients, np.zeros(3))])
    fitted, mixed, none = np.mean(errors, axis=0)
    assert fitted < 0.75 * none and mixed > 0.97 * none


def same(result: Prior, expected: Prior, sign: np.ndarray | None = None) -> None:
    sign = np.ones(len(result.measures)) if sign is None else sign
    np.testing.assert_allclose(result.coefficients, sign * expected.coefficients, atol=1e-5)
    np.testing.assert_allclose(result.covariance, sign[:, None] * expected.covariance * sign, atol=1e-5)
    assert result.spread == pytest.approx(expected.spread, rel=1e-5)


def test_learning_knows_no_order_no_level_and_no_sign() -> None:
    rng, evidence = np.random.default_rng(2), zoo(3, np.array([0.8, -0.4, 0.1]), networks=5)
    prior = learn_prior(evidence, NAMES[:3])
    mixed = []
    for entry in evidence[::-1]:
        order = rng.permutation(20)
        mixed.append(Evidence(entry.network, entry.scores[order], entry.log_rate[order], entry.variance[order]))
    result = learn_prior(mixed, NAMES[:3])
    same(result, prior)
    assert result.intercept == pytest.approx(prior.intercept, abs=1e-5)
    raised = [replace(entry, log_rate=entry.log_rate + 10 * n) for n, entry in enumerate(evidence)]
    same(learn_prior(raised, NAMES[:3]), prior)
    assert learn_prior(raised, NAMES[:3]).intercept == pytest.approx(prior.intercept + 20, abs=1e-5)
    sign = np.array([1.0, -1.0, 1.0])
    same(learn_prior([replace(entry, scores=entry.scores * sign) for entry in evidence], NAMES[:3]), prior, sign)
    again = learn_prior(evidence, NAMES[:3])
    assert json.dumps(prior_to_table(again)) == json.dumps(prior_to_table(prior))


def test_layers_without_a_probe_teach_nothing() -> None:
    evidence = zoo(4, np.array([0.8, -0.4]), networks=3)
    extra = [
        Evidence(e.network, np.vstack([e.scores, [[2.0, 2.0]]]), np.append(e.log_rate, 50.0), np.append(e.variance, np.inf))
        for e in evidence
    ]
    same(learn_prior(extra, NAMES[:2]), learn_prior(evidence, NAMES[:2]))


def test_one_network_no_measure_and_repeated_measures_have_a_proper_prior() -> None:
    one = zoo(6, np.array([0.8, -0.4]), networks=1, layers=4)
    alone = learn_prior(one, NAMES[:2])
    assert np.linalg.eigvalsh(alone.covariance)[0] > 0 and alone.intercept_variance > LEVEL
    bare = learn_prior([replace(one[0], scores=np.zeros((4, 0)))], ())
    assert posterior(bare, np.zeros((3, 0)), {0: (1.0, 0.0)}).log[1] == pytest.approx(1.0, abs=0.2)
    twin = learn_prior([replace(e, scores=e.scores[:, [0, 0]]) for e in zoo(6, np.array([0.8, 0.0]))], NAMES[:2])
    assert twin.coefficients[0] == pytest.approx(twin.coefficients[1], abs=1e-9)


def test_a_prior_is_a_data_file() -> None:
    prior = learn_prior(zoo(8, np.array([0.8, -0.4, 0.1]), networks=4), NAMES[:3])
    table = json.loads(json.dumps(prior_to_table(prior)))
    read = prior_from_table(table, "pruning.toml")
    assert (read.measures, read.networks) == (prior.measures, prior.networks)
    np.testing.assert_allclose(read.coefficients, prior.coefficients, rtol=1e-5)
    np.testing.assert_allclose(read.covariance, prior.covariance, rtol=1e-5)
    assert prior_to_table(read) == table
    bare = Prior((), 0.0, 4.0, np.zeros(0), np.zeros((0, 0)), 1.0, ("a",))
    assert prior_from_table(prior_to_table(bare), "bare.toml").measures == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spred": 1.0}, "unknown key 'spred'"),
        ({"spread": None}, "p.toml.spread is None; a number"),
        ({"spread": 0.0}, "p.toml: prior: .*spread 0"),
        ({"intercept_variance": True}, "p.toml.intercept_variance is True"),
        ({"intercept": float("nan")}, "nan or infinite"),
        ({"networks": "resnet"}, "list of names"),
        ({"coefficients": {"hill": 1.0}}, "are needed, in this order"),
        ({"coefficients": [1.0, 2.0]}, "a table with one line"),
        ({"covariance": {"hill": [1.0, 0.0], "depth": [0.0]}}, "covariance.depth .* 2 numbers"),
        ({"covariance": {"hill": [1.0, 2.0], "depth": [2.0, 1.0]}}, "eigenvalue -1"),
        ({"covariance": {"hill": [1.0, 0.5], "depth": [0.0, 1.0]}}, "symmetric"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(change: dict[str, object], message: str) -> None:
    good = prior_to_table(Prior(("hill", "depth"), 0.0, 4.0, np.ones(2), np.eye(2), 1.0, ("a",)))
    with pytest.raises(InvalidRequest, match=message):
        prior_from_table({**good, **change}, "p.toml")
    for key in good:
        with pytest.raises(InvalidRequest, match=f"'{key}' is missing"):
            prior_from_table({k: v for k, v in good.items() if k != key}, "p.toml")


def test_bad_evidence_is_refused_with_its_network_and_layer() -> None:
    scores, rate, noise = np.zeros((3, 1)), np.zeros(3), np.ones(3)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InvalidRequest, match="network 'vgg', layer 1: the log rate is"):
            Evidence("vgg", scores, np.array([0.0, bad, 0.0]), noise)
    for bad in (np.nan, -1.0):
        with pytest.raises(InvalidRequest, match="network 'vgg', layer 2: the variance is"):
            Evidence("vgg", scores, rate, np.array([0.0, 1.0, bad]))
    with pytest.raises(InvalidRequest, match="layer 0: a score is nan"):
        Evidence("vgg", np.array([[np.nan], [0.0], [0.0]]), rate, noise)
    with pytest.raises(InvalidRequest, match="no layer has a probe"):
        Evidence("vgg", scores, rate, np.full(3, np.inf))
    with pytest.raises(InvalidRequest, match=r"need \[L, d\]"):
        Evidence("vgg", scores[:2], rate, noise)
    good = Evidence("vgg", scores, rate, noise)
    with pytest.raises(InvalidRequest, match="given twice"):
        learn_prior([good, good], ["hill"])
    with pytest.raises(InvalidRequest, match="2 measures are named"):
        learn_prior([good], ["hill", "depth"])
    with pytest.raises(InvalidRequest, match="no network's evidence"):
        learn_prior([], ["hill"])
    prior = learn_prior([good], ["hill"])
    for probed, message in (({3: (0.0, 1.0)}, "layer 3 was probed"), ({0: (np.nan, 1.0)}, "layer 0: the log rate")):
        with pytest.raises(InvalidRequest, match=message):
            posterior(prior, scores, probed)
    with pytest.raises(InvalidRequest, match="1 columns"):
        posterior(prior, np.zeros((3, 2)), {})


def test_inputs_are_left_alone() -> None:
    evidence = zoo(9, np.array([0.8, -0.4]), networks=2)
    kept = [(e.scores.copy(), e.log_rate.copy(), e.variance.copy()) for e in evidence]
    prior = learn_prior(evidence, NAMES[:2])
    posterior(prior, evidence[0].scores, {0: (1.0, 0.5)})
    for entry, (scores, rate, noise) in zip(evidence, kept, strict=True):
        np.testing.assert_array_equal(entry.scores, scores)
        np.testing.assert_array_equal(entry.log_rate, rate)
        np.testing.assert_array_equal(entry.variance, noise)
