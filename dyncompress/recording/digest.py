"""The digest that ties a trajectory to the model it led to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dyncompress.types import Array


def weights_digest(weights: Mapping[str, Array]) -> str:
    """sha256 over the layers in the order of their names: name, shape, and values as little-endian float32.

    Weights are taken in the library's layout `(out, in / groups, *kernel)`, before any folding of normalisation layers. Device,
    framework and width (float64, float16, bfloat16) don't matter as long as the values rounded to float32 agree.

    Args:
        weights: layer -> weight.

    Example:
        >>> import numpy as np
        >>> weights_digest({"a": np.ones((1, 2))}) == weights_digest({"a": np.ones((1, 2), np.float32)})
        True
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name]
        values = weight.detach().cpu().float().numpy() if hasattr(weight, "detach") else np.asarray(weight)
        values = np.ascontiguousarray(values, dtype="<f4")
        digest.update(f"{name}\0{values.shape}\0".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
