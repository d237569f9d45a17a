"""The second moment of a layer's inputs, accumulated batch by batch."""

from __future__ import annotations

from dyncompress.errors import InvalidRequest
from dyncompress.linalg.deferred import Tensor, torch, without_gradients
from dyncompress.linalg.precision import full_precision
from dyncompress.types.arrays import Float

_ROWS_A_PRODUCT = 16_384  # largest number of rows in one float32 product, which is then added to the float64 total


class SecondMoment:
    """Mean of x x^T over a stream of rows, H = (1/n) sum_i x_i x_i^T.

    Products are computed in `dtype` (true float32 by default), at most 16 384 rows at a time, and summed in float64, so that the
    relative error stays near float32's rounding error for any number of rows.

    **Cost**: 2 K^2 flops for each row and group; memory `groups * K^2` float64.

    Example:
        >>> moment = SecondMoment()
        >>> moment.add(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        >>> moment.value
        tensor([[[1., 1.],
                 [1., 2.]]], dtype=torch.float64)

    Args:
        dtype: of the products, `torch.float32` (the default) or `torch.float64`.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        """Start with no rows; the first rows added determine the shape and the device."""
        self.dtype = torch.float32 if dtype is None else dtype
        self.rows = 0
        self._total: Tensor | None = None

    @without_gradients
    def add(self, rows: Float[Tensor, ...]) -> None:
        """Add rows `[n, K]`, or `[groups, n, K]` for a layer whose groups have different inputs.

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
                "columns; use one SecondMoment for each layer."
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
    def value(self) -> Float[Tensor, "groups K K"]:
        """H, `[groups, K, K]`, exactly symmetric, in the dtype of the sums (float64 by default).

        Raises:
            InvalidRequest: no rows were added.
        """
        if self._total is None or self.rows == 0:
            raise InvalidRequest("second moment: no rows were added; the calibration data never reached the layer.")
        return (self._total + self._total.mT).div_(2 * self.rows)
