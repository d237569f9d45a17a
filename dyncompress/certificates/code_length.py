"""Occam's bound: the error of a model on its population from its errors on training data and its length in bits.

With a prefix-free code fixed before the data, with probability 1 - delta for all models at once,
    R <= kl^-1(k / n | c),   c = (bits ln 2 + ln(1 / delta)) / n,   kl^-1(q | c) = sup {p >= q: kl(q || p) <= c}.

Source: Occam's razor (Blumer et al. 1987) in its Chernoff form (Langford 2005, JMLR 6). Assumes: the code
contains every number that was learned (running means too). Every constant is computed. The bound is usually loose; it is
printed as context beside a certificate.
Cost: 100 bisections.
"""

from __future__ import annotations

import math

from dyncompress.certificates.losses import check_counts, check_delta
from dyncompress.errors import InvalidRequest


def kl(q: float, p: float) -> float:
    """Kullback-Leibler divergence, in nats, of the Bernoulli law with mean `p` from the Bernoulli law with mean `q`."""
    ones = 0.0 if q == 0 else math.inf if p == 0 else q * math.log(q / p)
    zeros = 0.0 if q == 1 else math.inf if p == 1 else (1 - q) * (math.log1p(-q) - math.log1p(-p))
    return max(ones + zeros, 0.0)


def kl_inverse(q: float, budget: float) -> float:
    """The largest p >= q with kl(q || p) <= budget nats; rounded up.

    Raises:
        InvalidRequest: q isn't in [0, 1], or the budget is negative.

    Example:
        >>> round(kl_inverse(0.0, 0.1), 6)
        0.095163
    """
    if not (0 <= q <= 1 and budget >= 0):
        raise InvalidRequest(f"kl_inverse takes a share in [0, 1] and a budget >= 0; it got {q} and {budget}.")
    low, high = q, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(q, middle) <= budget else (low, middle)
    return high


def occam(errors: int, n: int, bits: float, delta: float) -> float:
    """Upper bound, at confidence 1 - delta, on a model's error rate, from its training errors and its code length.

    Args:
        errors: number of training errors.
        n: number of training points, augmentations not counted.
        bits: length of the model's prefix-free code in bits, e.g. `self_delimiting_bits(8 * file_size)`.
        delta: probability of failure.

    Raises:
        InvalidRequest: the counts are impossible, bits are negative, or delta isn't a probability.

    Example: no errors and no bits leave the Chernoff bound 1 - delta^(1/n).
        >>> round(occam(0, 100, 0, 0.05), 6)
        0.029513
    """
    check_counts(n, errors)
    check_delta(delta)
    if not bits >= 0:
        raise InvalidRequest(f"a code length of {bits} bits is impossible; count the bits of the file.")
    return kl_inverse(errors / n, (bits * math.log(2) + math.log(1 / delta)) / n)


def self_delimiting_bits(payload_bits: int) -> float:
    """Length of a prefix-free code for a payload of L bits: L + 2 log2 L + 1.

    The payload's length L is coded with the prior 6 / (pi^2 L^2), which takes 2 log2 L + 0.72 bits; 0.72 is rounded up to 1.

    Raises:
        InvalidRequest: the payload is empty.
    """
    if payload_bits < 1:
        raise InvalidRequest(f"a payload of {payload_bits} bits has no code; give its length, 1 or more.")
    return payload_bits + 2 * math.log2(payload_bits) + 1
