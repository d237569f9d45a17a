"""Linear algebra on the tensors' own device: second moments, damped Cholesky factors, spectra and distances.

Everything is batched over leading axes and answers in float64, whatever came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.types.arrays import Float, Float64, Int32

# A float32 product sums this many rows at most before it is added to the float64 total.
_ROWS_A_PRODUCT = 16_384
# Columns of one block of `pairwise_distances`: bounds the centred copy to n * 16 384 numbers.
_COLUMNS_A_BLOCK = 16_384
# FARMS cuts windows of at most this side; larger matrices are tiled.
_LARGEST_WINDOW = 2_048
# Weights whose eigenvalues one task of a thread computes, or one matrix if that is more.
_NUMBERS_A_TASK = 1 << 16
# Rows from which on one eigenvalue problem is worth the threads of a BLAS.
_WORTH_SHARING = 1_024


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products of float32 tensors in true float32 inside this block: no TF32, no bfloat16, no autocast; settings are restored.

    TF32 keeps 10 bits of mantissa, which turns the small eigenvalues of a second moment into noise.
    """
    backends: list[Any] = [getattr(backend, "matmul") for backend in (torch.backends.cuda, torch.backends.mkldnn)]  # noqa: B009
    before = [b.fp32_precision for b in backends]
    with torch.autocast(device.type, enabled=False):
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


class SecondMoment:
    """Mean of x x^T over a stream of rows, H = (1/n) sum_i x_i x_i^T.

    Products are taken in `dtype` (true float32 by default), at most 16 384 rows at a time, and added up in float64, so the
    relative error stays near float32's rounding however long the stream is.

    Cost: 2 K^2 flops a row and group; memory `groups * K^2` float64.

    Example:
        >>> moment = SecondMoment()
        >>> moment.add(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        >>> moment.value
        tensor([[[1., 1.],
                 [1., 2.]]], dtype=torch.float64)

    Args:
        dtype: of the products, float32 (None) or float64.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        """Start at zero rows; the shape and the device are those of the first rows added."""
        self.dtype = torch.float32 if dtype is None else dtype
        self.rows = 0
        self._total: Tensor | None = None

    @without_gradients
    def add(self, rows: Float[Tensor, ...]) -> None:
        """Add rows `[n, K]`, or `[groups, n, K]` for a layer whose groups see different inputs.

        Raises:
            InvalidRequest: the shape is neither, or doesn't fit the rows before, or a value is NaN or infinite.
        """
        if rows.ndim == 2:
            rows = rows[None]
        if rows.ndim != 3:
            raise InvalidRequest(f"second moment: rows of shape {tuple(rows.shape)}; give [n, K] or [groups, n, K].")
        groups, n, columns = rows.shape
        if self._total is None:
            self._total = torch.zeros(groups, columns, columns, dtype=torch.float64, device=rows.device)
        if self._total.shape[:2] != (groups, columns):
            known = tuple(self._total.shape[:2])
            raise InvalidRequest(
                f"second moment: rows of {groups} groups and {columns} columns after rows of {known[0]} groups and {known[1]} "
                "columns; use one accumulator a layer."
            )
        blocks = rows.split(_ROWS_A_PRODUCT, dim=1)
        if not all(bool(torch.isfinite(block.to(self.dtype).square().sum(dtype=torch.float64))) for block in blocks):
            raise InvalidRequest("second moment: an input is NaN or infinite, or its square overflows; clean the data.")
        with full_precision(rows.device):
            for block in blocks:
                x = block.to(self.dtype)
                self._total += x.mT @ x
        self.rows += n

    @property
    def value(self) -> Float64[Tensor, "groups K K"]:
        """H, `[groups, K, K]`, float64, exactly symmetric.

        Raises:
            InvalidRequest: no rows were added.
        """
        if self._total is None or self.rows == 0:
            raise InvalidRequest("second moment: no rows were seen; the layer was not reached by the calibration data.")
        return (self._total + self._total.mT).div_(2 * self.rows)


def damped_diagonal(moment: Float[Tensor, "*batch K K"], damping: float) -> Float64[Tensor, "*batch K"]:
    """The diagonal of `damped(moment, damping)` alone, float64 `[..., K]`."""
    diagonal = moment.diagonal(dim1=-2, dim2=-1).to(torch.float64)
    mean = diagonal.mean(-1, keepdim=True)
    level = torch.where(mean > 0, mean, torch.ones_like(mean))
    raised = diagonal + damping * level
    return torch.where(raised > 0, raised, level)


def damped(moment: Float[Tensor, "*batch K K"], damping: float) -> Float64[Tensor, "*batch K K"]:
    """H + (damping * mean(diag H)) I, float64, with nothing but positive numbers on the diagonal.

    A moment of zeros counts as having mean 1. With damping 0 an input that is always zero gets the mean: its row and column
    are zero, so any positive number leaves the other inputs' solutions as they are.

    Args:
        moment: `[..., K, K]`, symmetric, non-negative definite.
        damping: share of the mean diagonal entry, at least 0.

    Raises:
        InvalidRequest: the moment holds NaN or infinity, or damping is negative.
    """
    if damping < 0:
        raise InvalidRequest(f"damping is {damping}; give a share of the mean diagonal entry, 0 or more.")
    result = moment.to(torch.float64, copy=True)
    if result.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(result)):  # isfinite copies the matrix
        raise InvalidRequest("the inputs' second moment holds NaN or infinite values; clean the calibration data.")
    result.diagonal(dim1=-2, dim2=-1).copy_(damped_diagonal(result, damping))
    return result


def damped_cholesky(moment: Float[Tensor, "*batch K K"], damping: float = 0.01) -> Float64[Tensor, "*batch K K"]:
    """Lower Cholesky factor L of the damped moment, L L^T = H + damping * mean(diag H) I (see `damped`).

    Where rounding makes a matrix indefinite its damping is raised tenfold, from 1e-10 up, until it factors; at 100 % of
    the mean every finite second moment does. Other matrices of the batch keep theirs.

    Cost: K^3 / 3 flops a matrix; memory of one float64 matrix beside the moment.

    Args:
        moment: `[..., K, K]`, symmetric, non-negative definite.
        damping: share of the mean diagonal entry.

    Returns:
        `[..., K, K]`, float64, lower triangular.

    Raises:
        InvalidRequest: the moment holds NaN or infinity, or isn't a second moment at all (strongly indefinite).
    """
    factor, failed = _factored(damped(moment, damping))
    level = max(damping, 1e-11)
    while bool(failed.any()):
        level *= 10
        if level > 100:
            raise InvalidRequest("the matrix is far from non-negative definite: it is no second moment; observe the layer again.")
        again, still = _factored(damped(moment, level))
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, still, failed)
    return factor


def _factored(matrix: Float64[Tensor, "*batch K K"]) -> tuple[Float64[Tensor, "*batch K K"], Int32[Tensor, "*batch"]]:
    """Cholesky factor and failures of a symmetric matrix, in its own memory."""
    columns = matrix.mT  # by columns, as LAPACK works
    failed = torch.empty(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(columns, out=(columns, failed))
    return columns, failed


def spectra(weight: Float[Tensor, ...], view: str = "slices") -> list[Float64[Tensor, " _"]]:
    """Eigenvalues of W W^T on the smaller side, float64, ascending, clamped at zero, not divided by anything.

    view `slices`: one array for each kernel position's `(out, in / groups)` matrix. `flat`: one array, of the
    `(out, in / groups * kernel)` matrix. `windows`: one array for each square window of each kernel position's matrix.

    **Source**: FARMS (Hu et al., ICML 2025, arXiv 2506.06280) for the windows: sub-matrices of one aspect ratio make the
    spectra of layers of different shapes comparable. Here the side is the smaller one of the matrix, 2 048 at most, and as
    few windows as cover the matrix are spread evenly; the paper takes up to 15 x 15 overlapping ones.

    Cost: a Gram product and a tridiagonalisation of the smaller side, float64.

    Example:
        >>> spectra(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]), "flat")
        [tensor([ 9., 16.], dtype=torch.float64)]

    Args:
        weight: `[out, in / groups, *kernel]`.
        view: as above.

    Raises:
        InvalidRequest: an unknown view, fewer than two axes, or a weight that isn't finite.
    """
    return next(streamed_spectra([(weight, view)]))


def streamed_spectra(jobs: Iterable[tuple[Float[Tensor, ...], str]]) -> Iterator[list[Float64[Tensor, " _"]]]:
    """`spectra` of every (weight, view), in order.

    On a processor the matrices of all jobs are spread over as many threads as torch may use, one matrix a thread: an eigenvalue
    problem of a few hundred rows is too small to be shared, and threads that wait for each other cost more than they help.

    Raises:
        InvalidRequest: as `spectra`, before anything is computed.
    """
    stacks = [_matrices(weight, view) for weight, view in jobs]
    blocks = [[block for part in parts for block in part.split(_matrices_a_block(part))] for parts in stacks]
    tasks = [block for of_job in blocks for block in of_job]
    with _spread_over(_threads_for(tasks)) as spread:
        found = spread(_gram_eigenvalues, tasks)
        for of_job in blocks:
            yield [values for _ in of_job for values in next(found).unbind(0)]


def _matrices(weight: Float[Tensor, ...], view: str) -> list[Float[Tensor, "_ _ _"]]:
    """The matrices of a view in stacks `[b, m, n]` that share the weight's memory; checked."""
    if weight.ndim < 2 or weight.numel() == 0:
        raise InvalidRequest(f"spectra: a weight of shape {tuple(weight.shape)} is no matrix; give (out, in, *kernel).")
    if not bool(torch.isfinite(weight).all()):
        raise InvalidRequest("spectra: the weight holds NaN or infinite values; repair the model.")
    weight = weight.detach()
    if view == "flat":
        return [weight.flatten(1)[None]]
    slices = weight.flatten(2).permute(2, 0, 1) if weight.ndim > 2 else weight[None]
    if view == "slices":
        return [slices]
    if view == "windows":
        return _windows(slices)
    raise InvalidRequest(f"spectra: unknown view '{view}'; use slices, flat or windows.")


def _matrices_a_block(stack: Float[Tensor, "b m n"]) -> int:
    """How many matrices one task takes: large ones alone, small ones together."""
    if stack.device.type != "cpu":
        return 256
    return max(1, min(256, _NUMBERS_A_TASK // stack[0].numel()))


def _threads_for(tasks: list[Float[Tensor, "_ _ _"]]) -> int:
    """How many threads take the tasks; 0: the one that asks, with all the threads of its libraries."""
    if any(task.device.type != "cpu" for task in tasks) or (len(tasks) == 1 and min(tasks[0].shape[1:]) >= _WORTH_SHARING):
        return 0
    return min(torch.get_num_threads(), len(tasks))


@contextmanager
def _spread_over(count: int) -> Iterator[Callable[[Callable[[Tensor], Tensor], list[Tensor]], Iterator[Tensor]]]:
    """A `map` over `count` threads, each of which computes alone, or over none.

    numpy's BLAS is held to one thread as long as the block lasts. torch keeps the number of threads for each calling thread and a
    default for those to come: workers set theirs to one, and the default is put back as soon as all of them have.
    """
    if count == 0:
        yield map
        return
    with threadpool_limits(1, user_api="blas"):
        if count == 1:
            yield map
            return
        before, ready = torch.get_num_threads(), Barrier(count + 1)

        def alone() -> None:
            torch.set_num_threads(1)
            ready.wait()

        pool = ThreadPoolExecutor(count, initializer=alone)
        try:
            for _ in range(count):
                pool.submit(int)
            ready.wait()
            torch.set_num_threads(before)
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)


def _gram_eigenvalues(matrices: Float[Tensor, "b m n"]) -> Float64[Tensor, "b smaller"]:
    """`[b, m, n]` -> `[b, min(m, n)]`, float64, ascending.

    On a processor by numpy: its product of a matrix with its own transpose takes half the work, and its LAPACK is the faster one
    where torch's isn't made for the chip.
    """
    m = matrices.to(torch.float64, memory_format=torch.contiguous_format)
    m = m if m.shape[1] <= m.shape[2] else m.mT
    if m.device.type != "cpu":
        with torch.autocast(m.device.type, enabled=False):
            return torch.linalg.eigvalsh(m @ m.mT).clamp_min(0)
    array = m.numpy()
    return torch.from_numpy(np.linalg.eigvalsh(array @ array.swapaxes(-1, -2)).clip(min=0))


def _windows(matrices: Float[Tensor, "b m n"]) -> list[Float[Tensor, "b side side"]]:
    """Square windows of `[b, m, n]`, each `[b, side, side]`."""
    side = min(matrices.shape[1], matrices.shape[2], _LARGEST_WINDOW)
    rows, columns = (_starts(length, side) for length in matrices.shape[1:])
    return [matrices[:, r : r + side, c : c + side] for r in rows for c in columns]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spread starts of the fewest windows of `side` that cover `length`."""
    count = -(-length // side)
    return [round(i * (length - side) / (count - 1)) if count > 1 else 0 for i in range(count)]


@without_gradients
def pairwise_distances(points: Float[Tensor, ...]) -> Float64[Tensor, "*batch n n"]:
    """Euclidean distances between points, centred first, `[..., n, n]`, float64, symmetric, exact zeros on the diagonal.

    Iterates late in training lie close together and far from the origin: without centring a float32 product loses the
    distances altogether. Blocks of columns bound the memory; products keep the points' dtype (float32 at least) and are
    added up in float64.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)

    Args:
        points: `[..., n, d]`.

    Raises:
        InvalidRequest: fewer than two axes, or values that aren't finite.
    """
    if points.ndim < 2:
        raise InvalidRequest(f"distances: points of shape {tuple(points.shape)}; give [n, d].")
    n = points.shape[-2]
    gram = torch.zeros(*points.shape[:-1], n, dtype=torch.float64, device=points.device)
    with full_precision(points.device):
        for block in points.split(_COLUMNS_A_BLOCK, dim=-1):
            x = block.to(torch.float64)
            x = (x - x.mean(-2, keepdim=True)).to(torch.promote_types(points.dtype, torch.float32))
            gram += x @ x.mT
    if not bool(torch.isfinite(gram).all()):
        raise InvalidRequest("distances: a point is NaN or infinite; record finite iterates only.")
    squares = gram.diagonal(dim1=-2, dim2=-1)
    squared = squares[..., :, None] + squares[..., None, :] - gram - gram.mT
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    return squared.clamp_min(0).sqrt()
