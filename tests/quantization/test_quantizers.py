"""Every quantizer through the same properties, and GPTQ against its textbook form."""

import itertools
import math

import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import damped, damped_cholesky
from dyncompress.quantization import QUANTIZERS, Gptq, Grid, Mse, Nearest, decode
from dyncompress.quantization.gptq import nearest_plane
from dyncompress.quantization.grid import scale_blocks
from dyncompress.quantization.mse import clipped_scale
from dyncompress.types import Choice, InputMoment, Layer, Need, Observation, Quantizer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# name: weight shape, groups
SHAPES = {
    "linear": ((6, 10), 1),
    "conv1d": ((5, 4, 3), 1),
    "conv2d": ((8, 3, 3, 3), 1),
    "grouped": ((6, 2, 3), 3),
    "depthwise": ((7, 1, 3, 3), 7),
    "one_row": ((1, 9), 1),
    "one_weight": ((1, 1), 1),
    "wide": ((4, 150), 1),
}
GRANULARITIES = ["tensor", "channel", "group:4", "group:1000"]

FIXED_WIDTH = [name for name in QUANTIZERS if not name.startswith("entropy")]  # those go by steps


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(name, device="cpu", moment=True):
    shape, groups = SHAPES[name]
    weight = normal(*shape)
    columns = math.prod(shape[1:])
    x = normal(groups, 3 * columns, columns, seed=1) @ normal(groups, columns, columns, seed=2)
    values: dict[Need, torch.Tensor] = {InputMoment(): (x.mT @ x / x.shape[1]).double().to(device)} if moment else {}
    return weight.to(device), Observation(Layer(name, "conv2d", shape, 0, groups), values)


def output_error(weight, approximation, moment):
    e = (weight.double() - approximation.double()).flatten(1).unflatten(0, (len(moment), -1))
    return float(((e @ moment) * e).sum())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", FIXED_WIDTH)
def test_encodings_are_well_formed(method, name, granularity, device):
    weight, observation = case(name, device)
    before, moment_before = weight.clone(), observation[InputMoment()].clone()
    quantizer = QUANTIZERS[method]()
    for bits in (2, 3, 4, 8):
        encoded = quantizer(weight, observation, Choice(weight_bits=bits, granularity=granularity))
        low, high = quantizer.grid.limits(bits)
        columns = weight[0].numel()
        groups = {"tensor": (1,), "channel": (len(weight),), "group:4": (len(weight), -(-columns // 4))}
        assert encoded.codes.dtype == torch.int8
        assert encoded.codes.shape == weight.shape
        assert int(encoded.codes.min()) >= low
        assert int(encoded.codes.max()) <= high
        assert encoded.scale.dtype == torch.float32
        assert encoded.scale.shape == groups.get(granularity, (len(weight), 1))
        assert bool((encoded.scale > 0).all())
        assert encoded.bits == bits
        assert encoded.codes.device.type == encoded.scale.device.type == device.type
        size = encoded.group or columns
        for index in itertools.islice(itertools.product(*map(range, weight.shape)), 40):
            strides = [math.prod(weight.shape[k + 1 :]) for k in range(1, weight.ndim)]
            flat = sum(i * s for i, s in zip(index[1:], strides, strict=True))
            scale = encoded.scale.reshape(len(encoded.scale), -1)[index[0] if granularity != "tensor" else 0, flat // size]
            assert float(decode(encoded)[index]) == float(encoded.codes[index].float() * scale)
    assert torch.equal(weight, before)
    assert torch.equal(observation[InputMoment()], moment_before)


@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped", "wide"])
@pytest.mark.parametrize("method", FIXED_WIDTH)
def test_more_bits_less_error(method, name):
    weight, observation = case(name)
    quantizer = QUANTIZERS[method]()
    moment = observation[InputMoment()]
    measure = moment if method == "gptq" else torch.eye(moment.shape[1], dtype=torch.float64).expand_as(moment)
    for granularity in GRANULARITIES:
        choices = [Choice(weight_bits=bits, granularity=granularity) for bits in (2, 4, 6, 8)]
        errors = [output_error(weight, decode(quantizer(weight, observation, c)), measure) for c in choices]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("method", FIXED_WIDTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_give_the_float32_answer(method, dtype):
    weight, observation = case("conv2d")
    weight = weight.to(dtype)
    choice = Choice(weight_bits=4)
    encoded = QUANTIZERS[method]()(weight, observation, choice)
    expected = QUANTIZERS[method]()(weight.float(), observation, choice)
    assert encoded.scale.dtype == torch.float32
    assert torch.equal(encoded.codes, expected.codes)
    assert torch.equal(encoded.scale, expected.scale)


@pytest.mark.parametrize("method", FIXED_WIDTH)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_zeros_dead_inputs_and_extreme_sizes(method, granularity):
    weight, observation = case("linear")
    quantizer, choice = QUANTIZERS[method](), Choice(weight_bits=3, granularity=granularity)
    empty = quantizer(torch.zeros(6, 10), observation, choice)
    assert not empty.codes.any()
    assert bool((empty.scale > 0).all())
    dead = observation[InputMoment()].clone()
    dead[:, :4], dead[:, :, :4] = 0, 0
    for moment in (dead, torch.zeros_like(dead), 1e-30 * dead, 1e30 * dead):
        decoded = decode(quantizer(weight, Observation(observation.layer, {InputMoment(): moment}), choice))
        assert bool(torch.isfinite(decoded).all())
        assert float((weight - decoded).square().mean()) < float(weight.square().mean())
    for factor in (1e-37, 1e-42, 1e37):
        decoded = decode(quantizer(weight * factor, observation, choice))
        assert bool(torch.isfinite(decoded).all())


@pytest.mark.parametrize("method", FIXED_WIDTH)
def test_scaling_the_weight_scales_the_answer(method):
    weight, observation = case("conv2d")
    choice = Choice(weight_bits=3)
    one, four = QUANTIZERS[method]()(weight, observation, choice), QUANTIZERS[method]()(4 * weight, observation, choice)
    assert torch.equal(one.codes, four.codes)
    assert torch.equal(4 * one.scale, four.scale)


@pytest.mark.parametrize("method", FIXED_WIDTH)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("choice", [Choice(sparsity=0.5), Choice(pattern="2:4")])
def test_zeros_stay_zeros(method, granularity, choice):
    weight, observation = case("wide")
    weight = torch.where(normal(4, 150, seed=9) > 0, weight, 0)
    request = Choice(weight_bits=3, granularity=granularity, sparsity=choice.sparsity, pattern=choice.pattern)
    codes = QUANTIZERS[method]()(weight, observation, request).codes
    assert not codes[weight == 0].any()
    assert codes[weight != 0].any()


@pytest.mark.parametrize("method", FIXED_WIDTH)
def test_targets_limits_are_kept(method):
    weight, observation = case("conv2d")
    make = QUANTIZERS[method]
    seven = make(grid=Grid(reduce_range=True))(weight, observation, Choice(weight_bits=8)).codes
    assert int(seven.abs().max()) <= 63
    ternary = make(grid=Grid(symmetric=True))(weight, observation, Choice(weight_bits=2)).codes
    assert set(ternary.unique().tolist()) == {-1, 0, 1}
    for granularity in GRANULARITIES:
        scale = make(grid=Grid(power_of_two=True))(weight, observation, Choice(weight_bits=4, granularity=granularity)).scale
        assert torch.equal(scale, torch.exp2(scale.log2().round()))


@pytest.mark.parametrize("method", FIXED_WIDTH)
@pytest.mark.parametrize(
    ("weight", "choice", "message"),
    [
        (torch.full((2, 2), torch.nan), Choice(weight_bits=4), "NaN"),
        (torch.ones(2, 2), Choice(weight_bits=9), "2 to 8 bits"),
        (torch.ones(2, 2), Choice(weight_bits=1), "2 to 8 bits"),
        (torch.ones(2, 2), Choice(), "2 to 8 bits"),
        (torch.ones(2, 2), Choice(weight_bits=4, granularity="row"), "granularity is 'row'"),
        (torch.ones(2, 2), Choice(weight_bits=4, granularity="group:0"), "group:0"),
        (torch.ones(3), Choice(weight_bits=4), "shape"),
    ],
)
def test_bad_requests_are_refused(method, weight, choice, message):
    observation = Observation(Layer("a", "linear", (2, 2), 0), {InputMoment(): torch.eye(2)[None]})
    with pytest.raises(InvalidRequest, match=message):
        QUANTIZERS[method]()(weight, observation, choice)


def test_a_moment_of_another_layer_is_refused():
    weight, _ = case("linear")
    _, other = case("conv2d")
    with pytest.raises(InvalidRequest, match="moment"):
        Gptq()(weight, other, Choice(weight_bits=4))


def test_the_index_holds_quantizers():
    assert all(isinstance(make(), Quantizer) for make in QUANTIZERS.values())


def test_nearest_is_off_by_half_a_scale_at_most():
    weight, observation = case("wide")
    for bits in range(2, 9):
        encoded = Nearest()(weight, observation, Choice(weight_bits=bits))
        assert bool(((weight - decode(encoded)).abs() <= 0.5001 * encoded.scale[:, None]).all())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_scale_against_brute_force(bits):
    weight = normal(5, 200)
    limits = Grid().limits(bits)
    result = decode(Mse()(weight, case("wide", moment=False)[1], Choice(weight_bits=bits)))
    cover = torch.maximum(weight.amax(1) / limits[1], weight.amin(1) / limits[0])
    best = torch.full((5,), torch.inf)
    for ratio in torch.linspace(0.05, 1.0, 2000):
        s = (cover * ratio)[:, None]
        best = torch.minimum(best, ((weight / s).round().clamp(*limits) * s - weight).square().sum(1))
    error = (weight - result).square().sum(1)
    # At 8 bits the error is a jagged function of the scale, so the search comes close to its minimum only.
    assert bool((error <= (1.15 if bits == 8 else 1.01) * best).all())
    rtn = (weight - decode(Nearest()(weight, case("wide", moment=False)[1], Choice(weight_bits=bits)))).square().sum(1)
    assert bool((error <= rtn * (1 + 1e-6)).all())


def test_importance_moves_the_scale_towards_what_matters():
    block = torch.tensor([[[1.0, 0.3, -0.3, 0.3]]])
    light = clipped_scale(block, (-1, 1), Grid(), torch.tensor([1e-6, 1.0, 1.0, 1.0]))
    assert float(light) == pytest.approx(0.3, rel=1e-3)
    heavy = clipped_scale(block, (-1, 1), Grid(), torch.tensor([1.0, 1e-6, 1e-6, 1e-6]))
    assert float(heavy) == pytest.approx(1.0, rel=1e-3)


def textbook_gptq(weight, hessian, scale, limits):
    """Frantar et al. 2023, Algorithm 1, one row at a time, float64."""
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    w, codes = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for j in range(w.shape[1]):
        codes[:, j] = (w[:, j] / scale).round().clamp(*limits)
        error = (w[:, j] - codes[:, j] * scale) / upper[j, j]
        w[:, j + 1 :] -= error[:, None] * upper[None, j, j + 1 :]
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("columns", [9, 150])
def test_nearest_plane_gives_the_textbook_codes(bits, columns, device):
    weight = normal(12, columns)
    x = normal(2 * columns, columns, seed=1) @ normal(columns, columns, seed=2)
    hessian = damped((x.T @ x / len(x))[None], 0.01)[0]
    limits = Grid().limits(bits)
    scale = clipped_scale(scale_blocks(weight, "channel"), limits, Grid())[:, 0]
    factor = damped_cholesky(hessian.flip(0, 1)[None], 0.0).flip(-1, -2).to(device)
    target = weight.T[None].double().to(device)
    codes = nearest_plane(target, scale.double()[None, None].to(device), limits, factor)[0].T.cpu()
    expected = textbook_gptq(weight, hessian, scale.double(), limits)
    assert float((codes == expected).double().mean()) > 0.995
    ours = output_error(weight, codes * scale[:, None], hessian[None])
    assert ours == pytest.approx(output_error(weight, expected * scale[:, None], hessian[None]), rel=0.02)
    observation = Observation(Layer("a", "linear", (12, columns), 0), {InputMoment(): hessian[None]})
    full = decode(Gptq()(weight, observation, Choice(weight_bits=bits)))
    assert output_error(weight, full, hessian[None]) <= 1.001 * ours


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_error_feedback_beats_rounding(bits, granularity):
    choice = Choice(weight_bits=bits, granularity=granularity)
    ratios = []
    for name in ("linear", "conv1d", "conv2d", "grouped", "depthwise", "wide"):
        weight, observation = case(name)
        moment = observation[InputMoment()]
        feedback, rounding = (output_error(weight, decode(q(weight, observation, choice)), moment) for q in (Gptq(), Mse()))
        ratios.append(feedback / rounding)
    assert max(ratios) < 1.3
    assert math.prod(ratios) ** (1 / len(ratios)) < 0.7
    # A scale for every four weights leaves little rounding error to compensate.
    assert ratios[-1] < (0.9 if granularity == "group:4" else 0.5)


def test_tiny_problem_against_all_codes():
    x = normal(30, 3, seed=3) @ normal(3, 3, seed=4)
    moment = (x.T @ x / 30)[None].double()
    observation = Observation(Layer("a", "linear", (1, 3), 0), {InputMoment(): moment})
    for seed in range(10):
        weight = normal(1, 3, seed=seed)
        encoded = Gptq(damping=0.0)(weight, observation, Choice(weight_bits=2))
        ours = output_error(weight, decode(encoded), moment)
        every = torch.tensor(list(itertools.product(range(-2, 2), repeat=3))) * float(encoded.scale)
        best = min(output_error(weight, candidate[None], moment) for candidate in every)
        zero = output_error(weight, torch.zeros(1, 3), moment)
        assert best <= ours + 1e-9
        assert ours - best < 0.2 * zero


def test_groups_are_layers_of_their_own():
    weight, observation = case("grouped")
    moment = observation[InputMoment()]
    whole = Gptq()(weight, observation, Choice(weight_bits=3))
    for g in range(3):
        rows = slice(2 * g, 2 * g + 2)
        part = Observation(Layer("part", "conv1d", (2, 2, 3), 0), {InputMoment(): moment[g : g + 1]})
        alone = Gptq()(weight[rows], part, Choice(weight_bits=3))
        assert torch.equal(whole.codes[rows], alone.codes)
        torch.testing.assert_close(whole.scale[rows], alone.scale)


def test_order_of_rows_does_not_matter_and_order_of_inputs_hardly():
    weight, observation = case("wide")
    choice = Choice(weight_bits=3)
    rows = torch.tensor([2, 0, 3, 1])
    assert torch.equal(Gptq()(weight[rows], observation, choice).codes, Gptq()(weight, observation, choice).codes[rows])
    columns = torch.randperm(150, generator=torch.Generator().manual_seed(5))
    moved = Observation(observation.layer, {InputMoment(): observation[InputMoment()][:, columns][:, :, columns]})
    plain = Gptq(sweeps=0)  # descent goes through the inputs as they come
    same = plain(weight[:, columns], moved, choice).codes == plain(weight, observation, choice).codes[:, columns]
    assert float(same.float().mean()) > 0.99


def test_without_a_moment_gptq_is_mse():
    weight, observation = case("linear", moment=False)
    choice = Choice(weight_bits=4)
    assert torch.equal(Gptq()(weight, observation, choice).codes, Mse()(weight, observation, choice).codes)
    assert InputMoment() in Gptq().needs


# ---------------------------------------------------------------- the Quantizer protocol
@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_says_how_it_rounds_and_takes_a_targets_grid(name):
    quantizer, grid = QUANTIZERS[name](), Grid(power_of_two=True)
    assert isinstance(quantizer, Quantizer)
    assert quantizer.entropy_coded == name.startswith("entropy")
    assert quantizer.on_grid(grid).grid == grid and quantizer.grid == Grid() and type(quantizer.on_grid(grid)) is type(quantizer)
    assert quantizer.sketch is None or isinstance(quantizer.sketch, Quantizer)


def test_a_full_range_at_8_bits_is_the_grids_to_say():
    assert [Grid(full_range=True).limits(bits) for bits in (8, 4)] == [(-128, 127), (-8, 7)]
    assert Grid(full_range=True, reduce_range=True).limits(8) == (-64, 63)
    weight = torch.tensor([[-1.28, 1.0, 0.3]])
    observation = Observation(Layer("a", "linear", (1, 3), 0), {})
    codes = [Nearest(grid)(weight, observation, Choice(weight_bits=8)).codes for grid in (Grid(), Grid(full_range=True))]
    assert [int(code.min()) for code in codes] == [-127, -128]


def test_a_wrong_shape_is_a_type_error_while_tests_run():
    pytest.importorskip("beartype")
    jaxtyping = pytest.importorskip("jaxtyping")
    if jaxtyping.config.jaxtyping_disable:
        pytest.skip("JAXTYPING_DISABLE turns the checks off")
    with pytest.raises(jaxtyping.TypeCheckError):
        scale_blocks(torch.zeros(3), "channel")
    with pytest.raises(jaxtyping.TypeCheckError):
        nearest_plane(torch.zeros(1, 4, 2), torch.ones(1, 1, 1), (-8, 7), torch.eye(3)[None])
