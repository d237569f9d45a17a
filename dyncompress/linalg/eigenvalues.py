"""Eigenvalues of W W^T for the weight W of a layer, in three views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch
from dyncompress.linalg.worker_threads import thread_count, threaded_map
from dyncompress.types.arrays import Float, Float64

_LARGEST_WINDOW = 2_048  # side of the windows of a larger matrix
_NUMBERS_A_TASK = 1 << 16  # weights whose eigenvalues one task computes; a larger matrix is a task of its own


def spectra(weight: Float[Tensor, ...], view: str = "slices") -> list[Float64[Tensor, " _"]]:
    """Eigenvalues of W W^T on the smaller side, float64, ascending, clamped at zero, not divided by anything.

    view `slices`: one array for each kernel position's `(out, in / groups)` matrix. `flat`: one array, of the
    `(out, in / groups * kernel)` matrix. `windows`: one array for each square window of each kernel position's matrix.

    **Source**: FARMS (Hu et al., ICML 2025, arXiv 2506.06280) for the windows: sub-matrices of one aspect ratio make the
    spectra of layers of different shapes comparable. Here the side of a window is the smaller side of the matrix, at most 2 048,
    and the fewest windows that cover the matrix are spaced evenly. The paper uses up to 15 x 15 overlapping windows.

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

    On a CPU the matrices of all jobs are distributed over as many threads as torch may use, one matrix a thread. An eigenvalue
    problem of a few hundred rows is too small to be split between threads: they would wait for each other most of the time.

    Args:
        jobs: pairs of a weight `[out, in / groups, *kernel]` and a view, as in `spectra`.

    Raises:
        InvalidRequest: as `spectra`; all jobs are checked before the first one is computed.
    """
    stacks = [_matrices(weight, view) for weight, view in jobs]
    blocks = [[block for part in parts for block in part.split(_matrices_a_block(part))] for parts in stacks]
    tasks = [block for of_job in blocks for block in of_job]
    with threaded_map(thread_count(tasks)) as parallel_map:
        eigenvalues = parallel_map(_gram_eigenvalues, tasks)
        for of_job in blocks:
            yield [values for _ in of_job for values in next(eigenvalues).unbind(0)]


def _matrices(weight: Float[Tensor, ...], view: str) -> list[Float[Tensor, "_ _ _"]]:
    """Check the weight and return the matrices of a view, in stacks `[b, m, n]` that share the weight's memory."""
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
    """The number of matrices in one task: one large matrix, or several small ones."""
    if stack.device.type != "cpu":
        return 256
    return max(1, min(256, _NUMBERS_A_TASK // stack[0].numel()))


def _gram_eigenvalues(matrices: Float[Tensor, "b m n"]) -> Float64[Tensor, "b smaller"]:
    """Eigenvalues `[b, min(m, n)]` of the Gram matrices of `[b, m, n]`, float64, ascending.

    On a CPU numpy computes them: its product of a matrix with its own transpose takes half the operations, and its LAPACK is
        faster
    than torch's on processors that torch's isn't optimized for.
    """
    m = matrices.to(torch.float64, memory_format=torch.contiguous_format)
    m = m if m.shape[1] <= m.shape[2] else m.mT
    if m.device.type != "cpu":
        with torch.autocast(m.device.type, enabled=False):
            return torch.linalg.eigvalsh(m @ m.mT).clamp_min(0)
    array = m.numpy()
    return torch.from_numpy(np.linalg.eigvalsh(array @ array.swapaxes(-1, -2)).clip(min=0))


def _windows(matrices: Float[Tensor, "b m n"]) -> list[Float[Tensor, "b side side"]]:
    """Square windows `[b, side, side]` that together cover `[b, m, n]`."""
    side = min(matrices.shape[1], matrices.shape[2], _LARGEST_WINDOW)
    rows, columns = (_starts(length, side) for length in matrices.shape[1:])
    return [matrices[:, r : r + side, c : c + side] for r in rows for c in columns]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spaced first indices of the fewest windows of length `side` that cover `length`."""
    count = -(-length // side)
    return [round(i * (length - side) / (count - 1)) if count > 1 else 0 for i in range(count)]
