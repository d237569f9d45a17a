"""Evidence: the per-example losses behind a certificate, packed as text, so that anyone can recompute its bounds.

0-1 losses take one bit each. Others take a uint16 in units of 1/65535, rounded so that a bound can only get larger: the
original's losses down, the file's up. A certificate is computed from the losses as packed, never from the finer ones, and
therefore recomputes to the same numbers. Groups are packed as uint32, numbered in order of first appearance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from dyncompress.errors import Altered

UNITS = 65_535  # of a loss of 1
_ROUNDING = {"original": np.floor, "file": np.ceil}


def pack(original: np.ndarray, file: np.ndarray, groups: np.ndarray | None, *, binary: bool) -> dict[str, str]:
    """Text for losses `[n]` in [0, 1] of the original and of the file, and for the groups `[n]`, with digests.

    Args:
        original: the original's losses.
        file: the file's losses.
        groups: labels of the units of independence, or None.
        binary: whether every loss is 0 or 1 by the risk's definition.
    """
    texts = {"format": "bits" if binary else "uint16", "n": str(len(original))}
    for name, losses in (("original", original), ("file", file)):
        content = np.packbits(losses > 0) if binary else _ROUNDING[name](losses * UNITS).astype("<u2")
        texts[name] = content.tobytes().hex()
    if groups is not None:
        texts["groups"] = group_numbers(groups).astype("<u4").tobytes().hex()
    texts["sha256"] = _digest(texts)
    return texts


def unpack(evidence: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """`(original, file, groups)` as packed: losses float64 `[n]`, groups int64 `[n]` or None.

    Raises:
        Altered: the text isn't what was packed.
    """
    if evidence.get("sha256") != _digest(evidence):
        raise Altered("the evidence of the certificate doesn't have its digest: it was changed; get the certificate again.")
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


def group_numbers(groups: np.ndarray) -> np.ndarray:
    """Groups `[n]` of any labels as numbers 0, 1, ... in order of first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _losses(content: bytes, n: int, *, binary: bool) -> np.ndarray:
    """The losses behind packed bytes."""
    if binary:
        bits = np.unpackbits(np.frombuffer(content, np.uint8))
        return bits[:n].astype(np.float64) if len(content) == -(-n // 8) else bits.astype(np.float64)
    return np.frombuffer(content, "<u2").astype(np.float64) / UNITS


def _digest(evidence: Mapping[str, str]) -> str:
    """sha256 of every entry but the digest itself."""
    text = "\n".join(f"{key}={evidence[key]}" for key in sorted(evidence) if key != "sha256")
    return hashlib.sha256(text.encode()).hexdigest()
