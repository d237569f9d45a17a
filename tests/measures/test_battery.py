"""Properties that every measure of the index must have, so that a new measure is tested before its author writes a test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.measures import MEASURES
from dyncompress.types import Estimate, Measure, Motion, Observation, Spectrum, Weight, WeightFisher, WeightMotion
from tests.measures.observations import moved, observation

EVERY = pytest.mark.parametrize("name", MEASURES)
IN_UNITS_OF_THE_WEIGHTS = {"fluctuation_scale", "lifetime_sum"}
IN_INVERSE_SQUARES_OF_WEIGHTS = {"fisher_trace"}
IN_UNITS_OF_A_FIELD = {"magnitude", "positive_magnitude"}  # distances times `scale`
SHIFTED_BY_SCALE = {
    "alpha_weighted",
    "log_alpha_norm",
}  # logarithms of powers of the weights, to which a factor of the weights adds a constant
READS_NO_WEIGHT = {
    "effective_width",
    "layer_cushion",
    "noise_attenuation",
    "sharpness_dimension",
    "hessian_trace",
    "fisher_trace",
}
ORDER_MATTERS = {"block_sum", "row_block_sum", "farms"}  # a seeded shuffle, contiguous windows: invariant in law only
ORDER_MATTERS |= {"outlier_ratio"}  # weights are multiplied by other inputs


def with_motion(weight: np.ndarray) -> Observation:
    spread = float(np.abs(weight).max(initial=0.0))
    return observation(weight, moved(weight, noise=0.1 * spread))


def ordinary() -> np.ndarray:
    return np.random.default_rng(0).standard_t(4, (64, 60, 3, 3))


@EVERY
def test_keeps_the_protocol(name: str) -> None:
    measure: Any = MEASURES[name]()
    for field in dataclasses.fields(measure):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(measure, field.name, getattr(measure, field.name))
    assert {type(getattr(measure, field.name)) for field in dataclasses.fields(measure)} <= {int, float, str, bool}
    assert "needs" not in {field.name for field in dataclasses.fields(measure)}
    assert isinstance(measure, Measure)
    assert isinstance(measure.needs, tuple) and {hash(need) for need in measure.needs}


@EVERY
def test_ordinary_weights_give_a_finite_number(name: str) -> None:
    estimate = MEASURES[name]()(with_motion(ordinary()))
    assert math.isfinite(estimate.value)
    assert estimate.n > 0
    assert estimate.stderr >= 0 or any("no standard error" in note for note in estimate.notes)


@EVERY
def test_is_deterministic_and_leaves_its_input_alone(name: str) -> None:
    one = with_motion(ordinary())
    before = [np.array(array) for array in arrays_of(one)]
    first, second = MEASURES[name]()(one), MEASURES[name]()(one)
    assert repr(first) == repr(second)
    assert all(np.array_equal(old, new) for old, new in zip(before, arrays_of(one), strict=True))


@EVERY
@pytest.mark.parametrize("factor", [-1.0, 2.0**-20, 1e6, 1e-12])
def test_scale(name: str, factor: float) -> None:
    plain, scaled = (MEASURES[name]()(with_motion(ordinary() * c)) for c in (1.0, factor))
    if name in IN_UNITS_OF_A_FIELD:
        scaled = MEASURES[name](scale=MEASURES[name]().scale / abs(factor))(with_motion(ordinary() * factor))
    expected = plain.value * (abs(factor) if name in IN_UNITS_OF_THE_WEIGHTS else 1)
    if name in IN_INVERSE_SQUARES_OF_WEIGHTS:
        expected /= factor**2
    if name in SHIFTED_BY_SCALE:
        expected += 2 * MEASURES["esd_power_law"]()(with_motion(ordinary())).value * math.log10(abs(factor))
    tolerance = 1e-6 if name not in {"signal_to_noise"} else 1e-2
    assert scaled.value == pytest.approx(expected, rel=tolerance)
    assert scaled.valid == plain.valid


@EVERY
def test_order_of_channels(name: str) -> None:
    generator = np.random.default_rng(1)
    weight = ordinary()
    mixed = weight[generator.permutation(weight.shape[0])][:, generator.permutation(weight.shape[1])]
    plain, other = MEASURES[name]()(observation(weight, moved(weight))), MEASURES[name]()(observation(mixed, moved(mixed)))
    if name in ORDER_MATTERS:
        assert other.value == pytest.approx(plain.value, abs=4 * plain.stderr)
    elif plain.notes and Motion() in MEASURES[name]().needs:
        assert other.value == pytest.approx(plain.value, rel=0.05)  # a new draw of the motion
    else:
        assert other.value == pytest.approx(plain.value, rel=1e-6)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_torch_tensors_give_what_numpy_gives(name: str, dtype: torch.dtype, device: str) -> None:
    tensor = torch.from_numpy(ordinary()).to(dtype)
    one = with_motion(tensor.double().numpy())
    values = dict(one.values)
    values[Weight()] = tensor.to(device).requires_grad_()
    for view in ("slices", "flat"):
        values[Spectrum(view)] = [torch.from_numpy(array).to(device) for array in values[Spectrum(view)]]
    values[WeightFisher()] = torch.from_numpy(values[WeightFisher()]).to(device)
    theirs, ours = MEASURES[name]()(Observation(one.layer, values)), MEASURES[name]()(one)
    assert theirs.value == pytest.approx(ours.value, rel=1e-9)


SMALL: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "zeros": np.zeros,
    "ones": np.ones,
    "minus a half": lambda shape: np.full(shape, -0.5),
    "one weight": lambda shape: np.eye(math.prod(shape))[0].reshape(shape),
    "signs": lambda shape: np.random.default_rng(2).choice([-1.0, 1.0], shape),
    "noise": lambda shape: np.random.default_rng(3).standard_normal(shape),
    "mostly zeros": lambda shape: (
        np.random.default_rng(4).standard_normal(shape) * (np.random.default_rng(5).random(shape) < 0.05)
    ),
    "huge": lambda shape: 1e300 * np.random.default_rng(6).standard_normal(shape),
    "tiny": lambda shape: 1e-300 * np.random.default_rng(7).standard_normal(shape),
}


@EVERY
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 2, 1, 1), (16, 1, 3, 3), (20, 30)])
@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind not in ("huge", "tiny")])
def test_small_and_degenerate_layers_never_crash(name: str, shape: tuple[int, ...], kind: str) -> None:
    estimate = MEASURES[name]()(with_motion(SMALL[kind](shape)))
    assert isinstance(estimate, Estimate)
    if math.isnan(estimate.value):
        assert not estimate.valid
        assert estimate.notes and len(estimate.notes[0]) > 10
    else:
        assert math.isfinite(estimate.value)


@EVERY
@pytest.mark.parametrize("kind", ["huge", "tiny"])
def test_extreme_sizes_do_not_overflow(name: str, kind: str) -> None:
    measure, weight = MEASURES[name](), SMALL[kind]((40, 50))
    one = observation(weight * (1e-300 if kind == "huge" else 1e300))
    if measure.needs != (Weight(),):
        one, weight = with_motion(one[Weight()]), one[Weight()]  # spectra and motions are squares, so scales must be moderate
    extreme = Observation(one.layer, {**one.values, Weight(): weight})
    assert measure(extreme).value == pytest.approx(measure(one).value, rel=1e-6)


@EVERY
def test_all_zero_weights_are_invalid(name: str) -> None:
    if name in READS_NO_WEIGHT:
        return
    weight = np.zeros((20, 30))
    still = WeightMotion(weight, weight, weight, 40)
    estimate = MEASURES[name]()(observation(weight, still))
    if name == "signal_to_noise":
        assert estimate.value == 1.0  # a weight that stays at zero has no signal
    else:
        assert not estimate.valid
        assert estimate.notes


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("block_sum", "permutations", 0),
        ("hill", "fraction", 0.0),
        ("hill", "fraction", 1.0),
        ("power_law", "max_tail", 3),
        ("esd_mid", "view", "windows"),
        ("esd_power_law", "view", "Flat"),
        ("esd_peak", "lowest", 1.5),
        ("farms", "window", 1),
        ("farms", "aspect", 0.5),
        ("farms", "per_dimension", 0),
        ("row_block_sum", "permutations", 0),
        ("alpha_weighted", "view", "windows"),
        ("log_alpha_norm", "view", "Flat"),
        ("spikes", "margin", -1.0),
        ("pq_index", "low", 0.0),
        ("pq_index", "high", 1.0),
        ("row_compressibility", "keep", 0.0),
        ("spectral_compressibility", "power", -1.0),
        ("row_spread", "keep", 1.5),
        ("spectral_spread", "keep", 0.0),
        ("effective_width", "ridge", 0.0),
        ("outlier_ratio", "times", 0.0),
        ("layer_cushion", "share", 1.0),
        ("sharpness_dimension", "rate", 0.0),
        ("sharpness_dimension", "flat", -1.0),
        ("sharpness_dimension", "nodes", 1),
        ("sharpness_dimension", "batches", 0),
        ("hessian_trace", "nodes", 1),
        ("hessian_trace", "batches", 0),
        ("compressibility", "keep", 0.0),
        ("compressibility", "power", -2.0),
        ("signal_to_noise", "threshold", 0.0),
        ("participation_ratio", "window", 0),
        ("two_nn", "window", 0),
        ("two_nn", "discard", 1.0),
        ("ph_dimension", "alpha", 0.0),
        ("ph_dimension", "repeats", 1),
        ("data_ph_dimension", "alpha", -1.0),
        ("data_ph_dimension", "repeats", 1),
        ("lifetime_sum", "alpha", 0.0),
        ("magnitude", "scale", 0.0),
        ("positive_magnitude", "scale", math.inf),
        ("increment_tail", "permutations", 0),
        ("gradient_noise_tail", "permutations", 0),
    ],
)
def test_senseless_fields_are_refused_by_name(name: str, field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"measure\.{name}: {field} is .*must be"):
        MEASURES[name](**{field: value})


def arrays_of(one: Observation) -> list[np.ndarray]:
    motion = one[Motion()]
    spectra = [array for view in ("slices", "flat") for array in one[Spectrum(view)]]
    return [one[Weight()], one[WeightFisher()], *spectra, motion.mean, motion.variance, motion.increment_variance]
