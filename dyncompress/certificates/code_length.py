"""Occam's bound: the error of a model on its population from its errors on training data and its length in bits.

With a prefix-free code fixed before the data, with probability 1 - delta for all models at once,
    R <= kl^-1(k / n | c),   c = (bits ln 2 + ln(1 / delta)) / n,   kl^-1(q | c) = sup {p >= q: kl(q || p) <= c}.

Source: Occam's razor (Blumer et al. 1987) in its Chernoff form (Langford 2005, JMLR 6). Assumes: the code pays for every number
that was learned (running means too). Every constant is computed. Usually loose: it is printed as context beside a certificate.
Cost: 100 bisections.
"""

from __future__ import annotations

import math

from dyncompress.certificates.losses import check_counts, check_delta
from dyncompress.errors import InvalidRequest


def kl(q: float, p: float) -> float:
    """Kullback-Leibler divergence, in nats, of a coin with bias `p` from one with bias `q`."""
    ones = 0.0 if q == 0 else math.inf if p == 0 else q * math.log(q / p)
    zeros = 0.0 if q == 1 else math.inf if p == 1 else (1 - q) * (math.log1p(-q) - math.log1p(-p))
    return max(ones + zeros, 0.0)


def kl_inverse(q: float, budget: float) -> float:
    """The largest p >= q with kl(q || p) <= budget nats; rounded up.

    Raises:
        InvalidRequest: q isn't in [0, 1], or the budget is negative.
    """
    if not (0 <= q <= 1 and budget >= 0):
        raise InvalidRequest(f"kl_inverse takes a share in [0, 1] and a budget >= 0; it got {q} and {budget}.")
    low, high = q, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(q, middle) <= budget else (low, middle)
    return high


def occam(errors: int, n: int, bits: float, delta: float) -> float:
    """Upper bound on the error rate of a model that makes `errors` on `n` training points and is coded in `bits` bits.

    Args:
        errors: training errors.
        n: training points, augmentations not counted.
        bits: self-delimiting code length.
        delta: probability of failure.

    Raises:
        InvalidRequest: the counts are impossible, bits are negative, or delta is no probability.
    """
    check_counts(n, errors)
    check_delta(delta)
    if not bits >= 0:
        raise InvalidRequest(f"a code length of {bits} bits is impossible; count the bits of the file.")
    return kl_inverse(errors / n, (bits * math.log(2) + math.log(1 / delta)) / n)


def self_delimiting_bits(payload_bits: int) -> float:
    """Length of a prefix-free code for a payload of L bits: L + 2 log2 L + 1.

    The payload's length L is sent with prior 6 / (pi^2 L^2), which costs 2 log2 L + 0.72 bits; rounded up to 1.

    Raises:
        InvalidRequest: the payload is empty.
    """
    if payload_bits < 1:
        raise InvalidRequest(f"a payload of {payload_bits} bits has no code; give its length, 1 or more.")
    return payload_bits + 2 * math.log2(payload_bits) + 1
