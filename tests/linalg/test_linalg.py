"""Second moments, damped factors, spectra and distances, compared with plain numpy in float64."""

import numpy as np
import pytest
import torch

from dyncompress.errors import InvalidRequest
from dyncompress.linalg import (
    SecondMoment,
    damped,
    damped_cholesky,
    full_precision,
    pairwise_distances,
    spectra,
    streamed_spectra,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def normal(*shape, seed=0, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def test_the_streamed_moment_is_the_mean_outer_product(device):
    x = normal(2, 50_000, 7, device=device) + 30
    moment = SecondMoment()
    for part in x.split(17_777, dim=1):
        moment.add(part)
    exact = x.double().mT @ x.double() / x.shape[1]
    assert moment.rows == 50_000
    terms = 16_384  # tolerance of a sum in float32; all terms are positive, so no sum cancels
    torch.testing.assert_close(moment.value, exact, rtol=4 * terms**0.5 * torch.finfo(torch.float32).eps, atol=0)
    assert torch.equal(moment.value, moment.value.mT)


def test_a_moment_ignores_reduced_precision_settings_and_keeps_them(device):
    backends = [getattr(b, "matmul") for b in (torch.backends.cuda, torch.backends.mkldnn)]  # noqa: B009
    before = [b.fp32_precision for b in backends]
    x = normal(4096, 64, device=device)
    try:
        for b in backends:
            b.fp32_precision = "tf32"
        with torch.autocast(device.type, dtype=torch.bfloat16):
            moment = SecondMoment()
            moment.add(x)
        assert [b.fp32_precision for b in backends] == ["tf32", "tf32"]
    finally:
        for b, value in zip(backends, before, strict=True):
            b.fp32_precision = value
    torch.testing.assert_close(moment.value[0], x.double().T @ x.double() / 4096, rtol=1e-5, atol=1e-6)


def test_settings_are_restored_after_an_error():
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(RuntimeError), full_precision(torch.device("cpu")):
        torch.matmul(torch.zeros(2, 2), torch.zeros(3, 3))
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.full((2, 3), float("nan")), torch.full((2, 3), float("inf"))])
def test_bad_rows_are_refused_and_change_nothing(bad):
    moment = SecondMoment()
    moment.add(torch.eye(3))
    with pytest.raises(InvalidRequest):
        moment.add(bad)
    assert moment.rows == 3
    assert torch.equal(moment.value, torch.eye(3, dtype=torch.float64)[None] / 3)


def test_rows_of_another_width_and_no_rows_at_all_are_refused():
    moment = SecondMoment()
    with pytest.raises(InvalidRequest, match="no rows"):
        _ = moment.value
    moment.add(torch.eye(3))
    with pytest.raises(InvalidRequest, match="one SecondMoment for each layer"):
        moment.add(torch.eye(4))


def test_the_factor_reproduces_the_damped_moment(device):
    x = normal(3, 40, 6, device=device).double()
    moment = x.mT @ x / 40
    factor = damped_cholesky(moment, 0.1)
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    expected = moment + 0.1 * mean[:, None, None] * torch.eye(6, device=device, dtype=torch.float64)
    torch.testing.assert_close(factor @ factor.mT, expected)
    torch.testing.assert_close(factor, factor.tril())


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_ill_conditioned_moments_have_a_factor(damping):
    rank_one = torch.ones(1, 5, 5, dtype=torch.float64)
    dead = torch.diag(torch.tensor([1.0, 0, 2, 0, 3], dtype=torch.float64))[None]
    slightly_negative = rank_one - 1e-9 * torch.eye(5, dtype=torch.float64)
    batch = torch.cat([torch.zeros(1, 5, 5), rank_one, dead, slightly_negative, 1e-300 * torch.eye(5)[None].double()])
    before = batch.clone()
    factor = damped_cholesky(batch, damping)
    assert bool(torch.isfinite(factor).all())
    assert bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all())
    assert torch.equal(batch, before)


def test_without_damping_only_dead_inputs_change():
    moment = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(damped(moment, 0.0), torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], dtype=torch.float64))


@pytest.mark.parametrize("bad", [torch.full((1, 2, 2), float("nan")), torch.tensor([[[1.0, 1e6], [1e6, 1.0]]])])
def test_matrices_that_are_not_second_moments_are_refused(bad):
    with pytest.raises(InvalidRequest):
        damped_cholesky(bad, 0.01)
    with pytest.raises(InvalidRequest):
        damped_cholesky(torch.eye(2), -0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_spectra_are_squared_singular_values(device, dtype):
    weight = normal(6, 4, 3, 2, device=device).to(dtype)
    values = weight.double().cpu().numpy()
    slices = spectra(weight, "slices")
    assert len(slices) == 6
    for i, eigenvalues in enumerate(slices):
        expected = np.linalg.svd(values[:, :, i // 2, i % 2], compute_uv=False)[::-1] ** 2
        np.testing.assert_allclose(eigenvalues.cpu().numpy(), expected, rtol=1e-9, atol=1e-12)
    (flat,) = spectra(weight, "flat")
    np.testing.assert_allclose(flat.cpu().numpy(), np.linalg.svd(values.reshape(6, -1), compute_uv=False)[::-1] ** 2, rtol=1e-9)
    assert flat.dtype == torch.float64


def test_windows_are_square_and_cover_the_matrix():
    weight = normal(5, 13)
    windows = spectra(weight, "windows")
    assert len(windows) == 3
    for start, eigenvalues in zip((0, 4, 8), windows, strict=True):
        expected = torch.linalg.svdvals(weight[:, start : start + 5].double()).flip(0).square()
        torch.testing.assert_close(eigenvalues, expected, rtol=1e-6, atol=1e-9)
    assert [len(w) for w in spectra(normal(4, 4, 3), "windows")] == [4, 4, 4]
    assert [len(w) for w in spectra(normal(8, 1, 3, 3), "windows")] == [1] * 72


def test_windows_make_the_spectra_of_noise_independent_of_its_shape():
    def middle_to_top(view, columns):
        pooled = torch.cat(spectra(normal(64, columns), view))
        return float(pooled.max() / pooled.median())

    assert middle_to_top("flat", 64) > 3 * middle_to_top("flat", 1024)
    assert middle_to_top("windows", 64) == pytest.approx(middle_to_top("windows", 1024), rel=0.3)


@pytest.mark.parametrize(
    ("weight", "view"), [(torch.zeros(3), "flat"), (torch.ones(2, 2), "rows"), (torch.full((2, 2), torch.nan), "flat")]
)
def test_impossible_spectra_are_refused(weight, view):
    with pytest.raises(InvalidRequest):
        spectra(weight, view)


def test_distances_far_from_the_origin(device):
    points = normal(40, 300, device=device) * 1e-3 + 100 * normal(300, seed=1, device=device)
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    result = pairwise_distances(points)
    torch.testing.assert_close(result, exact, rtol=1e-5, atol=1e-7)
    assert torch.equal(result, result.T)
    assert float(result.diagonal().abs().max()) == 0
    torch.testing.assert_close(pairwise_distances(points[None].double())[0], exact, rtol=1e-9, atol=1e-10)


def test_distances_over_many_columns_and_few_points():
    points = normal(3, 40_000)
    torch.testing.assert_close(pairwise_distances(points), torch.cdist(points.double(), points.double()), rtol=1e-5, atol=1e-9)
    assert pairwise_distances(normal(1, 5)).tolist() == [[0.0]]
    with pytest.raises(InvalidRequest):
        pairwise_distances(torch.tensor([[0.0], [torch.inf]]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_streamed_spectra_equal_those_of_each_weight_and_keep_the_threads(threads):
    jobs = [(normal(8, 5, 3, 3, seed=s), view) for s, view in enumerate(["slices", "flat", "windows", "slices"])]
    jobs += [(normal(600, 300), "flat"), (normal(40, 30), "slices")]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        streamed = list(streamed_spectra(jobs))
        assert torch.get_num_threads() == threads
        unfinished = streamed_spectra(jobs)
        next(unfinished)
        assert torch.get_num_threads() == threads
        unfinished.close()
    finally:
        torch.set_num_threads(before)
    assert len(streamed) == len(jobs)
    for (weight, view), values in zip(jobs, streamed, strict=True):
        alone = spectra(weight, view)
        assert len(values) == len(alone)
        for one, other in zip(values, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_no_jobs_give_no_spectra_and_a_bad_job_is_refused_before_any_computation():
    assert list(streamed_spectra([])) == []
    with pytest.raises(InvalidRequest):
        next(streamed_spectra([(torch.eye(2), "flat"), (torch.ones(3), "flat")]))
