"""Model adapters: one sub-package a framework, and what a user calls data. `open_model` finds the adapter of a model.

A value that is a model adapter already (`types.Model`) is taken as it is, so that an adapter of one's own needs no change here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dyncompress.types import Batch, Model

__all__ = ["open_model", "preprocessing_warning"]


def open_model(model: Any, example: Batch, batch: Batch | None = None) -> Model:
    """The adapter of a model.

    Args:
        model: a `torch.nn.Module`, or a model adapter.
        example: two examples (or one) by input name, `[n, ...]`.
        batch: a whole batch as its owner makes them, for networks that run on no other size; None: the example.

    Raises:
        InvalidRequest: no adapter takes the model, or it doesn't run on the example.
        Unsupported: a part of it can't be edited.
    """
    if isinstance(model, Model):
        return model
    from dyncompress.models.torch import opening  # torch is imported only where a model needs it

    return opening.open_model(model, example, batch)


def preprocessing_warning(model: Any, batches: Sequence[Batch]) -> str | None:
    """A sentence where the data don't look like what the first layers were trained on, else None."""
    if isinstance(model, Model):
        return None
    from dyncompress.models.torch import folding

    return folding.preprocessing_warning(model, batches)
