"""Evidence: the losses of each example behind a certificate, packed as text, so that anyone can recompute its bounds.

0-1 losses take one bit each. Other losses take a uint16 each, in units of 1/65535, rounded so that a bound can only get larger:
the original's losses are rounded down and the file's are rounded up. A certificate is computed from the packed losses, never
from the finer ones, and can therefore be recomputed exactly. Groups are packed as uint32, numbered in order of first appearance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dyncompress.errors import Altered
from dyncompress.types.arrays import Float64, Int64, Real, Shaped

UNITS = 65_535  # a packed loss of 1
_ROUNDING = {"original": np.floor, "file": np.ceil}


def pack(
    original: Real[np.ndarray, " n"], file: Real[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"] | None, *, binary: bool
) -> dict[str, str]:
    """Pack losses and groups as hexadecimal text, with a sha256 of it.

    Args:
        original: losses `[n]` of the original, in [0, 1].
        file: losses `[n]` of the file on the same examples, in [0, 1].
        groups: labels `[n]` of the units of independence, of any dtype; None: every example is a unit.
        binary: whether every loss is 0 or 1 by the risk's definition.

    Returns:
        The keys `format`, `n`, `original`, `file`, `groups` (where there are any) and `sha256`.
    """
    texts = {"format": "bits" if binary else "uint16", "n": str(len(original))}
    for name, losses in (("original", original), ("file", file)):
        content = np.packbits(losses > 0) if binary else _ROUNDING[name](losses * UNITS).astype("<u2")
        texts[name] = content.tobytes().hex()
    if groups is not None:
        texts["groups"] = group_numbers(groups).astype("<u4").tobytes().hex()
    texts["sha256"] = _digest(texts)
    return texts


def rounded(losses: Float64[np.ndarray, " n"], *, binary: bool) -> Float64[np.ndarray, " n"]:
    """The file's losses `[n]` as `unpack` returns them after `pack`: rounded up to units of 1/65535, if they aren't 0 and 1.

    Example:
        >>> (65535 * rounded(np.array([0.5]), binary=False)).round(6).tolist()
        [32768.0]
    """
    return losses if binary else _ROUNDING["file"](losses * UNITS) / UNITS


def unpack(
    evidence: Mapping[str, str],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Int64[np.ndarray, " n"] | None]:
    """`(original, file, groups)` that `pack` packed: losses float64 `[n]`, groups int64 `[n]` or None.

    Raises:
        Altered: the evidence isn't what `pack` returned.
    """
    if evidence.get("sha256") != _digest(evidence):
        raise Altered("the evidence of the certificate doesn't match its digest: it was changed; get the certificate again.")
    try:
        n, binary = int(evidence["n"]), evidence["format"] == "bits"
        losses = [_losses(bytes.fromhex(evidence[name]), n, binary=binary) for name in ("original", "file")]
        groups = None
        if "groups" in evidence:
            groups = np.frombuffer(bytes.fromhex(evidence["groups"]), "<u4").astype(np.int64)
    except (KeyError, ValueError) as error:
        raise Altered(f"the evidence of the certificate can't be read ({error}); get the certificate again.") from error
    if any(len(x) != n for x in losses) or (groups is not None and len(groups) != n):
        raise Altered(f"the evidence of the certificate isn't of {n} examples; get the certificate again.")
    return losses[0], losses[1], groups


def group_numbers(groups: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Number groups 0, 1, ... in order of first appearance; `groups` are labels `[n]` of any dtype.

    Example:
        >>> group_numbers(np.array(["b", "a", "b"])).tolist()
        [0, 1, 0]
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _losses(content: bytes, n: int, *, binary: bool) -> Float64[np.ndarray, " packed"]:
    """The losses that the bytes hold; their number differs from `n` where the bytes were cut."""
    if binary:
        bits = np.unpackbits(np.frombuffer(content, np.uint8))
        return bits[:n].astype(np.float64) if len(content) == -(-n // 8) else bits.astype(np.float64)
    return np.frombuffer(content, "<u2").astype(np.float64) / UNITS


def _digest(evidence: Mapping[str, str]) -> str:
    """sha256 of every entry except the digest itself."""
    text = "\n".join(f"{key}={evidence[key]}" for key in sorted(evidence) if key != "sha256")
    return hashlib.sha256(text.encode()).hexdigest()
