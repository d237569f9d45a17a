"""How far one network's outputs are from another's: KL divergence of scores, or relative squared error of anything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SMALLEST = 1e-7  # of a probability; smaller ones are rounding errors in float32
_AT_ONCE = 1 << 17  # numbers in float64 that stay in the cache
_ROUNDING = 1e-3  # by which a row of probabilities may miss 1


def are_scores(output: np.ndarray) -> bool:
    """Whether an output reads as class scores: two axes, more than one column."""
    return output.ndim == 2 and output.shape[1] > 1


def as_scores(output: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Class scores `[n, c]` in float64: the logarithm, where an output is probabilities already (rows that add up to 1).

    Args:
        output: scores or probabilities `[n, c]`.
        like: the output that decides which of the two it is; None: the output itself.

    Example:
        >>> as_scores(np.array([[0.5, 0.5]])).round(3).tolist(), as_scores(np.array([[3.0, 0.5]])).tolist()
        ([[-0.693, -0.693]], [[3.0, 0.5]])
    """
    output = output.astype(np.float64)
    judged = output if like is None else like.astype(np.float64)
    probabilities = bool((judged >= 0).all()) and bool((np.abs(judged.sum(axis=1) - 1) <= _ROUNDING).all())
    return np.log(np.maximum(output, _SMALLEST)) if probabilities else output


def divergence(reference: np.ndarray, output: np.ndarray) -> float:
    """Mean KL(softmax(reference) || softmax(output)) in nats for `[n, c]` scores; else the relative mean squared error.

    Outputs that are probabilities already are taken as such.

    Args:
        reference, output: of the same shape, examples first.

    Example:
        >>> divergence(np.array([[0.0, 0.0]]), np.array([[1.0, 1.0]]))
        0.0
    """
    return float(per_example(reference, output).mean())


def per_example(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The divergence of each example, `[n]` float64; its mean is `divergence`, its spread tells how sure that is."""
    if are_scores(reference):
        p, q = log_softmax(as_scores(reference)), log_softmax(as_scores(output, reference))
        return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    mean, power, errors = float(reference.mean(dtype=np.float64)), 0.0, []
    rows = max(1, _AT_ONCE * len(reference) // max(reference.size, 1))
    for start in range(0, len(reference), rows):
        level, other = (
            array[start : start + rows].astype(np.float64).reshape(-1, reference[0].size) for array in (reference, output)
        )
        other -= level
        errors.append(np.einsum("ij,ij->i", other, other))
        level -= mean
        power += float(np.vdot(level, level))
    return np.concatenate(errors) * len(reference) / max(power, 1e-30)


def divergence_of_outputs(reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The divergence of each example over all float outputs together, `[n]`: the sum of theirs.

    An output that counts positions as examples, since its axes have several lengths, adds its mean to each.
    """
    pairs = [(a, b) for a, b in zip(reference, outputs, strict=False) if a.dtype.kind == "f"]
    found = [per_example(a, b) for a, b in pairs] or [np.zeros(len(reference[0]))]
    alike = [each for each in found if len(each) == len(found[0])]
    return np.sum(alike, axis=0) + sum(float(each.mean()) for each in found if len(each) != len(found[0]))


def agreement(reference: np.ndarray, output: np.ndarray) -> float:
    """Share of examples whose largest score is at the same place; nan where the outputs aren't `[n, c]` scores."""
    if not are_scores(reference):
        return float("nan")
    return float((reference.argmax(axis=1) == output.argmax(axis=1)).mean())


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of each row."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
