"""From losses to a certificate: which lines it has, the share of delta of each, and whether the promise is kept.

With labels there are two lines: the increase of the risk, which is the line that can be promised, at 0.8 delta, and the risk of
the file, at 0.2 delta. With the risk `agreement` (no labels) there is one line, the disagreement with the original, at delta.
Where predictions agree, 0-1 losses agree, so this line bounds the change of the error rate under any labels.

The bound of a line depends on the risk's definition, on whether there are groups, and on n, never on the losses:
    0-1 risks, no groups   increase: exact paired bound; risk and disagreement: Clopper-Pearson
    other risks, or groups betting on group means, of (Z + 1) / 2 for the increase

A plan chosen by fixed-sequence testing isn't a plan fixed beforehand, so its own bounds don't hold. The test proves the limit:
the increase line then states the limit instead of the smaller bound of the plan. The risk of the file is bounded at 0.2 delta
divided by the number of plans, which holds for all plans at once.

A certificate with groups concerns a group drawn at random and an example drawn at random from that group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dyncompress.certificates.betting import Betting
from dyncompress.certificates.clopper_pearson import ClopperPearson
from dyncompress.certificates.evidence import group_numbers, pack, unpack
from dyncompress.certificates.hoeffding_bentkus import HoeffdingBentkus
from dyncompress.certificates.losses import check_delta, check_losses
from dyncompress.certificates.paired import PairedIncrease
from dyncompress.certificates.risks import AGREEMENT, is_binary
from dyncompress.certificates.wording import assumptions, statement
from dyncompress.errors import Altered, InvalidRequest
from dyncompress.types import Bound, Certificate, Interval, Line
from dyncompress.types.arrays import Float64, Int64

INCREASE, FILE_RISK, DISAGREEMENT = "risk increase", "risk of the file", "disagreement with the original"
_SHARES = {INCREASE: 0.8, FILE_RISK: 0.2}  # shares of delta; fixed here, so that they can't depend on data
_SCALED: dict[str, Bound] = {"betting": Betting(), "hoeffding_bentkus": HoeffdingBentkus()}  # take any loss in [0, 1]


@dataclass(frozen=True)
class Promise:
    """What a certificate is to promise, fixed before any loss is computed.

    Attributes:
        risk: the written form of a risk of the library, e.g. `zero_one` or `detection:iou=0.5`, or the name of a user's own
            risk (its losses count as real numbers in [0, 1]).
        delta: probability that any line is wrong.
        risk_increase: largest increase to promise, e.g. 0.01; None: the certificate states bounds and promises nothing.
        method: bound of the promised line: `paired_increase`, `clopper_pearson` (for `agreement`), `betting` or
            `hoeffding_bentkus`; empty: the tightest one that applies.
    """

    risk: str = "zero_one"
    delta: float = 0.05
    risk_increase: float | None = None
    method: str = ""


@dataclass(frozen=True)
class Circumstances:
    """How a certificate was made: fields that are copied into the `Certificate`, described there.

    `selection` is empty, or the record of fixed-sequence testing with `plans`, the number of plans on the path.
    """

    assumptions: tuple[str, ...] = ()
    valid_as: str = "alone"
    selection: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


NO_CIRCUMSTANCES = Circumstances()


def certificate_from_losses(
    original: np.ndarray,
    file: np.ndarray,
    promise: Promise,
    *,
    groups: np.ndarray | None = None,
    circumstances: Circumstances = NO_CIRCUMSTANCES,
) -> Certificate:
    """The certificate of a file, from the losses of the original and of the file on held-out examples.

    Args:
        original: losses `[n]` of the original, in [0, 1]; for `agreement` zeros.
        file: losses `[n]` of the file on the same examples, in [0, 1]; for `agreement` 1 where the predictions differ.
        promise: what the certificate is to promise.
        groups: labels `[n]` of the units of independence; None: every example is a unit.
        circumstances: how the certificate was made.

    Returns:
        The certificate; `kept` says whether the promise is kept (True where nothing is promised).

    Raises:
        InvalidRequest: losses out of range, of different lengths, or not 0 and 1 under a 0-1 risk; a selection without its
            number of plans or without a promise.
    """
    check_delta(promise.delta)
    limit = promise.risk_increase
    if limit is not None and not math.isfinite(limit):
        raise InvalidRequest(f"the promised risk increase is {limit}; give a fraction such as 0.01.")
    values = (0, 1) if (binary := is_binary(promise.risk)) else None
    original, file = check_losses(original, values), check_losses(file, values)
    if len(original) != len(file) or (groups is not None and np.shape(groups) != np.shape(file)):
        shape = "none" if groups is None else np.shape(groups)
        raise InvalidRequest(
            f"the original has {len(original)} losses, the file {len(file)}, groups have shape {shape}; give one each."
        )
    if promise.risk == AGREEMENT and original.any():
        raise InvalidRequest("the original always agrees with itself; under the risk 'agreement' its losses must be zeros.")
    evidence = pack(original, file, groups, binary=binary)
    original, file, groups = unpack(evidence)
    lines, n = _chosen_lines(original, file, groups, promise, circumstances.selection)
    unit = "example" if groups is None else "group"
    return Certificate(
        statement=statement(promise.risk, promise.delta, lines[0], n, unit),
        kind="statistical",
        lines=lines,
        delta=promise.delta,
        n=n,
        counts=_counts(original, file, promise),
        assumptions=assumptions(unit) + circumstances.assumptions,
        valid_as=circumstances.valid_as,
        selection=circumstances.selection,
        environment=circumstances.environment,
        digests=circumstances.digests,
        context=circumstances.context,
        evidence=evidence | {"method": promise.method},
        kept=limit is None or lines[0].upper <= limit,
        risk=promise.risk,
        promise=limit,
    )


def upper_increase(original: np.ndarray, file: np.ndarray, promise: Promise, *, groups: np.ndarray | None = None) -> float:
    """The upper bound of the promised line of a single plan, which fixed-sequence testing compares with the limit.

    Raises:
        InvalidRequest: as in `certificate_from_losses`.
    """
    return certificate_from_losses(original, file, promise, groups=groups).lines[0].upper


def recompute(certificate: Certificate) -> tuple[Line, ...]:
    """Compute the lines again from the certificate's evidence alone.

    Raises:
        Altered: the evidence was changed, or lines, counts or verdict don't follow from it.
    """
    texts = {key: text for key, text in certificate.evidence.items() if key != "method"}
    original, file, groups = unpack(texts)
    promise = Promise(certificate.risk, certificate.delta, certificate.promise, certificate.evidence.get("method", ""))
    lines, n = _chosen_lines(original, file, groups, promise, certificate.selection)
    if n != certificate.n or any(certificate.counts.get(key) != k for key, k in _counts(original, file, promise).items()):
        raise Altered("the counts of the certificate don't follow from its evidence; get the certificate again.")
    if certificate.kept != (promise.risk_increase is None or lines[0].upper <= promise.risk_increase):
        raise Altered("the verdict of the certificate doesn't follow from its evidence; get the certificate again.")
    if len(lines) != len(certificate.lines) or not all(map(_same, lines, certificate.lines)):
        raise Altered("the lines of the certificate don't follow from its evidence; get the certificate again.")
    return lines


def packed_losses(
    certificate: Certificate,
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Int64[np.ndarray, " n"] | None]:
    """`(original, file, groups)` of a certificate's evidence: losses `[n]`, groups `[n]` or None.

    Raises:
        Altered: the evidence was changed.
    """
    return unpack({key: text for key, text in certificate.evidence.items() if key != "method"})


def check_method(promise: Promise, *, grouped: bool) -> None:
    """Check, before any loss is computed, that the promise's method can bound its risk.

    Args:
        promise: its risk and method are read.
        grouped: whether groups are the independent units.

    Raises:
        InvalidRequest: names the methods that can.
    """
    bound = _disagreement_bound if promise.risk == AGREEMENT else _increase_bound
    bound(promise.method, exact=is_binary(promise.risk) and not grouped)


def minimum_examples(promise: Promise) -> int:
    """The least number of independent examples that can keep the promise, reached where no example differs.

    For `agreement` this is the least n with 1 - delta^(1/n) at most the promise.

    Raises:
        InvalidRequest: nothing is promised, or the promised increase is 0 or less.

    Example:
        >>> minimum_examples(Promise("agreement", delta=0.05, risk_increase=0.01))
        299
    """
    limit = promise.risk_increase
    if limit is None or not limit > 0:
        raise InvalidRequest(f"the promised risk increase is {limit}; only one above 0 has a least number of examples.")
    if limit >= 1:
        return 1

    def is_kept(n: int) -> bool:
        return _lines(np.zeros(n), np.zeros(n), None, promise)[0][0].upper <= limit

    high = max(1, math.ceil(math.log(1 / promise.delta) / -math.log1p(-limit)))
    if promise.risk == AGREEMENT:
        return high
    while not is_kept(high):
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_kept(middle) else (middle, high)
    return high


def _chosen_lines(
    original: Float64[np.ndarray, " n"],
    file: Float64[np.ndarray, " n"],
    groups: Int64[np.ndarray, " n"] | None,
    promise: Promise,
    selection: Mapping[str, Any],
) -> tuple[tuple[Line, ...], int]:
    """The lines that hold for a plan chosen by fixed-sequence testing, and the number of independent units."""
    plans = selection.get("plans") if selection else 1
    limit = promise.risk_increase
    if not isinstance(plans, int) or plans < 1 or (plans > 1 and limit is None):
        raise InvalidRequest(f"a selection needs `plans`, the length of its path, and a promise; it has {plans} and {limit}.")
    lines, n = _lines(original, file, groups, promise, plans)
    if plans == 1 or limit is None:
        return lines, n
    how = f"{lines[0].method}; the limit of fixed-sequence testing over {plans} plans"
    return (replace(lines[0], upper=max(lines[0].upper, limit), method=how), *lines[1:]), n


def _lines(
    original: Float64[np.ndarray, " n"],
    file: Float64[np.ndarray, " n"],
    groups: Int64[np.ndarray, " n"] | None,
    promise: Promise,
    plans: int = 1,
) -> tuple[tuple[Line, ...], int]:
    """The lines and the number of independent units.

    The promised line is first and holds for one plan fixed beforehand; the others hold for all `plans` at once.
    """
    exact = is_binary(promise.risk) and groups is None
    file_mean, difference = _means(file, groups), _means(file - original, groups)
    single: Bound = ClopperPearson() if exact else Betting()
    if promise.risk == AGREEMENT:
        return (_line(DISAGREEMENT, _disagreement_bound(promise.method, exact=exact)(file_mean, promise.delta)),), len(file_mean)
    share = _SHARES[INCREASE] * promise.delta
    increase = _line(INCREASE, _increase_bound(promise.method, exact=exact)(difference, share))
    share = _SHARES[FILE_RISK] * promise.delta
    risk = _line(FILE_RISK, single(file_mean, share / plans))
    return (increase, replace(risk, delta=share)), len(file_mean)


def _disagreement_bound(method: str, *, exact: bool) -> Bound:
    """The bound of a share of disagreements."""
    name = method or ("clopper_pearson" if exact else "betting")
    if name in ("clopper_pearson", "disagreement") and exact:
        return ClopperPearson()
    if name not in _SCALED:
        raise InvalidRequest(f"certificate.method '{name}' can't bound this disagreement; leave it empty.")
    return _SCALED[name]


def _increase_bound(method: str, *, exact: bool) -> Callable[[np.ndarray, float], Interval]:
    """The bound of the mean of differences in [-1, 1]."""
    name = method or ("paired_increase" if exact else "betting")
    if name == "paired_increase" and exact:
        return PairedIncrease()
    if name not in _SCALED:
        why = "takes single 0-1 losses only, without groups" if name == "paired_increase" else "doesn't bound an increase"
        raise InvalidRequest(f"certificate.method '{name}' {why}; leave it empty, or give {' or '.join(sorted(_SCALED))}.")

    def scaled(difference: Float64[np.ndarray, " n"], delta: float) -> Interval:
        interval = _SCALED[name](np.clip((difference + 1) / 2, 0, 1), delta)
        point = float(difference.mean())
        return Interval(point, -1.0, 2 * interval.upper - 1, delta, interval.n, f"{interval.method}, of (Z + 1) / 2")

    return scaled


def _means(values: Float64[np.ndarray, " n"], groups: Int64[np.ndarray, " n"] | None) -> Float64[np.ndarray, " units"]:
    """The mean of the values of each group, in order of first appearance; the values themselves where there are no groups."""
    if groups is None:
        return values
    numbers = group_numbers(groups)
    return np.bincount(numbers, values) / np.bincount(numbers)


def _line(quantity: str, bound: Interval) -> Line:
    """The line that states the bound of a quantity."""
    return Line(quantity, bound.point, bound.lower, bound.upper, bound.delta, bound.method)


def _same(one: Line, other: Line) -> bool:
    """Whether two lines are equal up to the last digits, in which the special functions of machines differ."""
    numbers = [(getattr(one, name), getattr(other, name)) for name in ("point", "lower", "upper", "delta")]
    return one.quantity == other.quantity and all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in numbers)


def _counts(original: Float64[np.ndarray, " n"], file: Float64[np.ndarray, " n"], promise: Promise) -> dict[str, int]:
    """The counts of a certificate: examples and, for 0-1 risks, errors of each model and errors of only one of them."""
    if not is_binary(promise.risk):
        return {"examples": len(file)}
    return {
        "examples": len(file),
        "worse": int((file > original).sum()),
        "better": int((file < original).sum()),
        "original_errors": int((original > 0).sum()),
        "file_errors": int((file > 0).sum()),
    }
