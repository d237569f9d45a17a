"""Published rules compared with their formulas, by bisection or for single weights, and properties of every rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dyncompress.allocation import (
    ERK,
    HAWQ,
    LAMP,
    OWL,
    RULES,
    AlphaPruning,
    DepthLinear,
    EqualError,
    GlobalMagnitude,
    RandomShare,
)
from dyncompress.allocation.alpha_pruning import ratios
from dyncompress.allocation.cost import NONZEROS, nonzeros_left, solve
from dyncompress.allocation.random_share import spread_of
from dyncompress.allocation.rule import relative_position, shares
from dyncompress.errors import Infeasible, InvalidRequest
from dyncompress.types import Choice, Estimate, Layer, Option, Plan, Profile, Rule, WeightChange

EVERY = pytest.mark.parametrize("name", RULES)
FOR_WIDTHS = ("equal_share", "equal_error", "alpha_pruning", "depth_linear", "hawq", "random_share")
SHAPES = ((16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 1, 1), (10, 64))
FINE = tuple(np.arange(0, 1, 1 / 400).tolist())


def weights(seed: int = 0) -> list[np.ndarray]:
    """The weights of layers with different scales and tails."""
    draw = np.random.default_rng(seed)
    return [10.0 ** draw.uniform(-1, 1) * draw.standard_t(draw.uniform(2, 20), shape) for shape in SHAPES]


def profile(
    arrays: Sequence[np.ndarray], sparsities: Sequence[float] = FINE, widths: Sequence[int] = (8,), seed: int = 0
) -> Profile:
    """A profile of magnitude pruning of these arrays; the error of rounding is 4^-bits of the remaining energy."""
    draw = np.random.default_rng(seed)
    layers = tuple(Layer(f"l{i}", "conv2d", array.shape, macs=array.size) for i, array in enumerate(arrays))
    table = {layer.name: tuple(lines(array, sparsities, widths)) for layer, array in zip(layers, arrays, strict=True)}
    names = ("esd_mid", "farms", "outlier_ratio", "hessian_trace")
    estimates = {name: {layer.name: Estimate(draw.uniform(2, 5), 0.1, 9) for layer in layers} for name in names}
    return Profile(layers, estimates, table, dict.fromkeys(table, "theory"), {}, 10**6, 0, 10**6, "d", "r", "t")


def lines(array: np.ndarray, sparsities: Sequence[float], widths: Sequence[int]) -> list[Option]:
    squares, result = np.sort(np.square(array).ravel()), []
    for sparsity in sparsities:
        for bits in widths:
            zeros = round(sparsity * array.size)
            gone, energy = float(squares[:zeros].sum()), float(squares.sum())
            error = gone / energy + (1 - gone / energy) * 4.0**-bits
            threshold = float(squares[zeros - 1] ** 0.5) if zeros else 0.0
            change = WeightChange(energy, error, threshold, float(squares[max(zeros - 1, 0) :].sum()))
            nonzeros = array.size - zeros
            option = Option(Choice(sparsity=sparsity, weight_bits=bits), nonzeros * bits / 8, array.size, error)
            result.append(dataclasses.replace(option, nonzeros=float(nonzeros), change=change))
    return result


def at(one: Profile, rule: Rule, sparsity: float) -> Plan:
    return solve(one, [(NONZEROS, nonzeros_left(one, sparsity))], rule, {})


def zeros(plan: Plan) -> np.ndarray:
    return np.array([choice.sparsity for choice in plan.asked.values()])


def reached(one: Profile, plan: Plan) -> float:
    sizes = np.array([layer.weights for layer in one.layers])
    return float(sum(round(s * n) for s, n in zip(zeros(plan), sizes, strict=True)) / sizes.sum())


SIZES = np.array([np.prod(shape) for shape in SHAPES], dtype=float)
HALF = len(SHAPES) / 2 / SIZES.sum()  # shares are rounded to whole weights in each layer


def solved_for(shares_at: Callable[[float], np.ndarray], sparsity: float, low: float, high: float) -> np.ndarray:
    """The shares at the t where all layers together have this sparsity, by bisection; shares rise with t."""
    for _ in range(200):
        middle = (low + high) / 2
        less = np.average(shares_at(middle), weights=SIZES) < sparsity
        low, high = (middle, high) if less else (low, middle)
    return shares_at(high)


# ---------------------------------------------------------------- each rule compared with its formula
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("epsilon", [0.2, 0.5])
@pytest.mark.parametrize("measure", ["esd_mid", "farms"])
def test_alpha_pruning_is_its_mapping(sparsity: float, epsilon: float, measure: str) -> None:
    one = profile(weights())
    q = np.array([estimate.value for estimate in one.estimates[measure].values()])
    wanted = ratios(q, SIZES, sparsity, epsilon)
    result = zeros(at(one, AlphaPruning(epsilon=epsilon, measure=measure), sparsity))
    assert result == pytest.approx(np.minimum(wanted, FINE[-1]), abs=0.006)


def test_a_negative_epsilon_turns_alpha_pruning_round() -> None:
    one = profile(weights())
    q = np.array([estimate.value for estimate in one.estimates["esd_mid"].values()])
    for epsilon, sign in ((0.3, 1), (-0.3, -1)):
        result = zeros(at(one, AlphaPruning(epsilon=epsilon), 0.5))
        assert (np.diff(sign * result[np.argsort(q)]) >= -1e-9).all() and result.std() > 0.05


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
def test_erk_is_the_public_loop(sparsity: float) -> None:
    raw = np.array([sum(shape) / np.prod(shape) for shape in SHAPES])
    dense = np.zeros(len(SHAPES), dtype=bool)
    while True:  # as in RigL: a layer whose density would exceed 1 is dense, and the scale is computed again
        scale = ((1 - sparsity) * SIZES.sum() - SIZES[dense].sum()) / (raw * SIZES)[~dense].sum()
        over = (~dense) & (scale * raw > 1)
        if not over.any():
            break
        dense |= over
    wanted = np.where(dense, 0.0, 1 - scale * raw)
    assert zeros(at(profile(weights()), ERK(), sparsity)) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_global_magnitude_is_one_threshold_over_all_weights(sparsity: float) -> None:
    arrays = [np.abs(array).ravel() for array in weights()]
    threshold = np.quantile(np.concatenate(arrays), sparsity)
    wanted = np.array([(array <= threshold).mean() for array in arrays])
    result = zeros(at(profile(weights()), GlobalMagnitude(), sparsity))
    assert result == pytest.approx(np.minimum(wanted, FINE[-1]), abs=0.02)
    assert wanted.std() > 0.1


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_lamp_is_one_threshold_over_all_scores(sparsity: float) -> None:
    scores = []
    for array in weights():
        squares = np.sort(np.square(array).ravel())
        scores.append(np.array([square / squares[i:].sum() for i, square in enumerate(squares)]))
    threshold = np.quantile(np.concatenate(scores), sparsity)
    wanted = np.array([(score <= threshold).mean() for score in scores])
    assert zeros(at(profile(weights()), LAMP(), sparsity)) == pytest.approx(wanted, abs=0.02)


def test_lamp_is_free_of_scale_and_global_magnitude_is_not() -> None:
    plain = weights()
    scaled = [array * factor for array, factor in zip(plain, (1, 30, 0.01, 5, 1, 0.2), strict=True)]
    assert zeros(at(profile(plain), LAMP(), 0.6)).tolist() == zeros(at(profile(scaled), LAMP(), 0.6)).tolist()
    result = [zeros(at(profile(arrays), GlobalMagnitude(), 0.6)) for arrays in (plain, scaled)]
    assert np.abs(result[0] - result[1]).max() > 0.2


def test_owl_stays_in_its_band_and_spares_outliers() -> None:
    one = profile(weights())
    outliers = relative_position(np.array([estimate.value for estimate in one.estimates["outlier_ratio"].values()]))
    wanted = solved_for(lambda t: np.clip(t - 0.16 * outliers, 0, FINE[-1]), 0.6, 0, 2)
    result = zeros(at(one, OWL(), 0.6))
    assert result == pytest.approx(wanted, abs=0.006)
    assert result.max() - result.min() == pytest.approx(0.16, abs=0.006)


@pytest.mark.parametrize("rise", [0.3, -0.3, 0.9])
def test_depth_linear_is_an_arithmetic_progression(rise: float) -> None:
    result = zeros(at(profile(weights()), DepthLinear(rise=rise), 0.5))
    steps = np.linspace(0, rise, len(SHAPES))
    assert result == pytest.approx(solved_for(lambda t: np.clip(t + steps, 0, FINE[-1]), 0.5, -2, 2), abs=0.006)
    if abs(rise) < 0.5:
        assert np.diff(result) == pytest.approx(np.full(len(SHAPES) - 1, rise / (len(SHAPES) - 1)), abs=0.006)


def test_equal_error_makes_errors_equal() -> None:
    one = profile(weights())
    plan = at(one, EqualError(), 0.6)
    chosen = {unit: next(o for o in options if o.choice == plan.asked[unit]) for unit, options in one.table.items()}
    errors = np.array([option.change.error for option in chosen.values() if option.change])
    assert errors.max() / errors.min() < 1.05
    assert zeros(plan).std() > 0.02


def test_hawq_minimises_its_own_sum() -> None:
    one = profile(weights(), sparsities=(0.0, 0.4, 0.8), widths=(8, 4))
    plan = solve(one, [("bytes", 0.4 * SIZES.sum())], HAWQ(), {})
    curvature = np.array([estimate.value for estimate in one.estimates["hessian_trace"].values()])

    def predicted_total(asked: dict[str, Choice]) -> float:
        return sum(
            h * o.change.energy * o.change.error
            for h, (unit, options) in zip(curvature, one.table.items(), strict=True)
            for o in options
            if o.choice == asked[unit] and o.change
        )

    draw = np.random.default_rng(0)
    others = []
    for _ in range(2000):
        picked = {unit: options[draw.integers(len(options))] for unit, options in one.table.items()}
        if sum(option.bytes for option in picked.values()) <= 0.4 * SIZES.sum():
            others.append(predicted_total({unit: option.choice for unit, option in picked.items()}))
    assert len(others) > 100 and predicted_total(dict(plan.asked)) <= min(others)


def test_negative_curvature_counts_as_none() -> None:
    one = profile(weights(), sparsities=(0.0, 0.5))
    estimates = {**one.estimates["hessian_trace"], "l0": Estimate(-3.0, 1.0, 4)}
    table = HAWQ()(dataclasses.replace(one, estimates={"hessian_trace": estimates}))
    assert table[0].tolist() == [0.0, 0.0] and (table[1:, 1] > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_random_shares_have_the_spread_that_was_asked(seed: int) -> None:
    one = profile(weights())
    plan = at(one, RandomShare(spread=0.08, seed=seed), 0.5)
    assert spread_of(zeros(plan), SIZES) == pytest.approx(0.08, abs=0.004)
    assert zeros(plan).tolist() == zeros(at(one, RandomShare(spread=0.08, seed=seed), 0.5)).tolist()
    assert zeros(plan).tolist() != zeros(at(one, RandomShare(spread=0.08, seed=seed + 1), 0.5)).tolist()
    level = at(one, RandomShare(spread=0.0, seed=seed), 0.5)
    assert zeros(level).max() - zeros(level).min() < 0.003


# ---------------------------------------------------------------- every rule
@EVERY
def test_keeps_the_protocol(name: str) -> None:
    rule: Any = RULES[name]()
    assert isinstance(rule, Rule)
    fields = {field.name for field in dataclasses.fields(rule)}
    assert not fields & {"measures", "solver"}
    assert {type(getattr(rule, field)) for field in fields} <= {int, float, str}
    one = profile(weights(), sparsities=(0.0, 0.5, 0.9))
    before = repr(one)
    assert rule(one).shape == (len(SHAPES), 3) and (np.diff(rule(one)) >= 0).all(), "bolder options never come first"
    assert repr(one) == before


@EVERY
@settings(max_examples=15)
@given(seed=st.integers(0, 100), sparsity=st.floats(0.01, 0.95))
def test_the_asked_share_of_zeros_is_met_and_hardly_passed(name: str, seed: int, sparsity: float) -> None:
    one = profile(weights(seed), sparsities=np.arange(0, 1, 0.02).tolist(), seed=seed)
    plan = at(one, RULES[name](), sparsity)
    assert ((zeros(plan) >= 0) & (zeros(plan) < 1)).all()
    assert sparsity - HALF <= reached(one, plan) <= sparsity + 0.021
    assert 0 <= plan.gap <= 1


@EVERY
def test_less_budget_never_asks_for_fewer_zeros_anywhere(name: str) -> None:
    if name == "hawq":
        pytest.skip("a knapsack may trade one layer for another")
    one = profile(weights())
    result = np.array([zeros(at(one, RULES[name](), sparsity)) for sparsity in np.linspace(0.05, 0.95, 5)])
    assert (np.diff(result, axis=0) >= -1e-9).all()


@EVERY
def test_no_budget_takes_nothing(name: str) -> None:
    assert (zeros(solve(profile(weights()), [], RULES[name](), {})) == 0).all()


@EVERY
def test_widths_are_shared_out_where_they_mean_something(name: str) -> None:
    one = profile(weights(), sparsities=(0.0,), widths=(8, 6, 5, 4, 3, 2))
    budget = [("bytes", 0.55 * SIZES.sum())]
    if name not in FOR_WIDTHS:
        with pytest.raises(InvalidRequest, match=rf"allocator {name}: .*zeros only.*equal_error"):
            solve(one, budget, RULES[name](), {})
        return
    plan = solve(one, budget, RULES[name](), {})
    assert plan.cost["bytes"] <= 0.55 * SIZES.sum()
    assert plan.cost["bytes"] >= 0.4 * SIZES.sum()
    assert len({choice.weight_bits for choice in plan.asked.values()}) > 1


@EVERY
def test_layers_with_one_option_are_left_out_of_the_question(name: str) -> None:
    one = profile(weights(), sparsities=(0.0, 0.3, 0.6, 0.9))
    only = tuple(dataclasses.replace(option, change=None) for option in one.table["l0"][:1])
    plan = at(dataclasses.replace(one, table={**one.table, "l0": only}), RULES[name](), 0.6)
    assert plan.asked["l0"].sparsity == 0.0 and reached(one, plan) >= 0.6 - HALF


@EVERY
def test_what_a_rule_reads_must_be_there(name: str) -> None:
    rule: Any = RULES[name]()
    one = dataclasses.replace(profile(weights()), estimates={})
    if rule.measures:
        with pytest.raises(InvalidRequest, match=rf"allocator {name}: it needs '{rule.measures[0]}', which this profile doesn't"):
            at(one, rule, 0.5)
        empty = {rule.measures[0]: {"l0": Estimate(np.nan, np.nan, 0, valid=False)}}
        with pytest.raises(InvalidRequest, match=rf"allocator {name}: '{rule.measures[0]}' has no value for any layer"):
            at(dataclasses.replace(one, estimates=empty), rule, 0.5)
    else:
        assert reached(one, at(one, rule, 0.5)) >= 0.5 - HALF


@pytest.mark.parametrize("name", ["equal_error", "global_magnitude", "lamp", "hawq"])
def test_profiles_without_changes_are_refused(name: str) -> None:
    one = profile(weights(), sparsities=(0.0, 0.5))
    table = {unit: tuple(dataclasses.replace(o, change=None) for o in options) for unit, options in one.table.items()}
    with pytest.raises(InvalidRequest, match=f"allocator {name}: the profile doesn't hold the weight changes of layer 'l0'"):
        at(dataclasses.replace(one, table=table), RULES[name](), 0.4)


def test_missing_estimates_count_as_the_mean() -> None:
    one = profile(weights())
    some = {name: e for name, e in one.estimates["esd_mid"].items() if name != "l2"}
    mean = np.mean([estimate.value for estimate in some.values()])
    full = {**some, "l2": Estimate(float(mean), 0.1, 9)}
    result = [zeros(at(dataclasses.replace(one, estimates={"esd_mid": e}), AlphaPruning(), 0.5)) for e in (some, full)]
    assert result[0].tolist() == result[1].tolist()


@EVERY
def test_what_no_rule_can_weigh_is_refused(name: str) -> None:
    one = profile(weights(), sparsities=(0.0, 0.5))
    with pytest.raises(InvalidRequest, match="this rule doesn't use distortions"):
        solve(one, [("distortion", 0.5)], RULES[name](), {})
    channels = {**one.table, "channels:g": (Option(Choice(), 0, 0, 0.0), Option(Choice(keep=2), -5, -5, 0.1))}
    with pytest.raises(InvalidRequest, match=r"doesn't support the unit 'channels:g'; leave \[channels\] out"):
        solve(dataclasses.replace(one, table=channels), [("bytes", 30_000.0)], RULES[name](), {})


def test_steps_give_up_no_fixed_share() -> None:
    one = profile(weights(), sparsities=(0.0, 0.5))
    step = Choice(weight_bits=8, step=0.1)
    coded = {unit: tuple(dataclasses.replace(o, choice=step) for o in options) for unit, options in one.table.items()}
    with pytest.raises(InvalidRequest, match=r"layer 'l0' has entropy-coded options.*equal_error"):
        shares(dataclasses.replace(one, table=coded), "equal_share")


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.7, 0.8, 0.95])
def test_the_same_share_everywhere_is_that_share(sparsity: float) -> None:
    one = profile(weights(), sparsities=(sparsity,))
    assert (zeros(at(one, RULES["equal_share"](), sparsity)) == sparsity).all()


def test_shares_of_zeros_and_widths_multiply() -> None:
    one = profile(weights()[:1], sparsities=(0.0, 0.5), widths=(8, 4))
    assert shares(one, "equal_share").tolist() == [[0.0, 0.5, 0.5, 0.75]]


def test_more_zeros_than_the_table_holds_are_refused() -> None:
    one = profile(weights(), sparsities=(0.0, 0.5))
    with pytest.raises(Infeasible, match=r"budget\.sparsity is 0\.8, and the boldest options have 0\.5 zeros in all"):
        at(one, RULES["equal_share"](), 0.8)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("alpha_pruning", "epsilon", 1.5),
        ("owl", "width", 0.7),
        ("owl", "width", -0.1),
        ("depth_linear", "rise", 2.0),
        ("random_share", "spread", 0.6),
        ("random_share", "seed", -1),
    ],
)
def test_senseless_fields_are_refused_by_name(name: str, field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"allocator\.{name}: {field} is .*must be"):
        RULES[name](**{field: value})
