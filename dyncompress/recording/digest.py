"""The digest by which a trajectory is recognised as that of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dyncompress.types import Array


def weights_digest(weights: Mapping[str, Array]) -> str:
    """SHA-256 over the layers in the order of their names: name, shape, and values as little-endian float32.

    Two sets of weights have the same digest if their values are equal after rounding to float32, whatever the framework, the
    device and the dtype.

    Args:
        weights: layer name -> weight `(out, in / groups, *kernel)`, before any folding of normalisation layers.

    Returns:
        64 hexadecimal digits.

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
