"""Risks: functions that compute one loss in [0, 1] for each example.

`RISKS` maps the name of a risk to its class, a frozen dataclass whose fields are its options. A risk has one written form, in
recipes, on the command line and in certificates: its name, and its options behind a colon, `detection:score=0.3,iou=0.5`.

A user's own risk is any callable `(outputs, labels) -> losses [n]`; `losses_of` checks the losses that it returns. It gets the
first output. If it has the attribute `reads_all_outputs = True`, it gets all outputs, as a mapping from names to arrays.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, get_type_hints, runtime_checkable

import numpy as np

from dyncompress.certificates.classification import Agreement, ZeroOne
from dyncompress.certificates.detection import Detection
from dyncompress.certificates.regression import BoundedError
from dyncompress.certificates.retrieval import ReciprocalRank
from dyncompress.certificates.transcription import CharacterErrors, ExactMatch
from dyncompress.errors import InvalidRequest, nearest
from dyncompress.types import Risk
from dyncompress.types.arrays import Float64

AGREEMENT = "agreement"
_EXAMPLES = {int: "10", float: "0.5"}  # of an option's value, for messages


@runtime_checkable
class NamedRisk(Protocol):
    """A risk of the library; a frozen dataclass whose fields are its options."""

    @property
    def binary(self) -> bool:
        """Whether every loss is 0 or 1, whatever the outputs and labels."""
        ...

    @property
    def quantity(self) -> str:
        """What the mean of the losses is called in the sentence of a certificate."""
        ...

    def __call__(self, outputs: Any, labels: np.ndarray) -> np.ndarray:
        """The losses `[n]`, in [0, 1]."""
        ...


RISKS: dict[str, type] = {
    "zero_one": ZeroOne,
    "agreement": Agreement,
    "detection": Detection,
    "exact_match": ExactMatch,
    "character_errors": CharacterErrors,
    "reciprocal_rank": ReciprocalRank,
    "bounded_error": BoundedError,
}


def parse_risk(text: str) -> NamedRisk:
    """The risk that a text names, with its options; `written` is the inverse.

    Args:
        text: `name`, or `name:option=value,option=value`. Options that are left out have their defaults.

    Raises:
        InvalidRequest: the name or an option is unknown, an option is given twice, missing or without a value, or its value
            isn't valid.

    Example:
        >>> parse_risk("detection:score=0.3")
        Detection(score=0.3, iou=0.5)
    """
    name, colon, rest = text.partition(":")
    if name not in RISKS:
        raise InvalidRequest(f"unknown risk '{name}'; give one of {', '.join(RISKS)}, or a callable (outputs, labels) -> losses.")
    fields = {field.name: field for field in dataclasses.fields(RISKS[name])}
    kinds = get_type_hints(RISKS[name])
    options: dict[str, int | float] = {}
    for word in rest.split(",") if colon else ():
        key, _, value = (part.strip() for part in word.partition("="))
        if not fields:
            raise InvalidRequest(f"risk '{name}' has no options and is given '{word}'; write {name} alone.")
        if key not in fields:
            raise InvalidRequest(f"risk '{name}': unknown option '{key}'{nearest(key, fields)}")
        if key in options:
            raise InvalidRequest(f"risk '{name}': option '{key}' is given twice; keep one of them.")
        options[key] = _number(value, kinds[key], f"risk '{name}': option '{key}'")
    missing = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in options]
    if missing:
        example = f"{name}:{missing[0]}={_EXAMPLES[kinds[missing[0]]]}"
        raise InvalidRequest(f"risk '{name}' needs the option '{missing[0]}'; write it as {example}.")
    return RISKS[name](**options)


def written(risk: NamedRisk) -> str:
    """The written form of a risk of the library, with all of its options; `parse_risk` reads it.

    Example:
        >>> written(parse_risk("detection:iou=0.50"))
        'detection:score=0.5,iou=0.5'
    """
    name = next(name for name, kind in RISKS.items() if type(risk) is kind)
    options = [f"{key}={_shortest(value)}" for key, value in dataclasses.asdict(cast(Any, risk)).items()]
    return f"{name}:{','.join(options)}" if options else name


def as_risk(risk: Any) -> Risk:
    """The risk as a callable: the one that a text names, or the callable itself.

    Raises:
        InvalidRequest: as `parse_risk`; or it is neither a text nor a callable.
    """
    if isinstance(risk, str):
        return parse_risk(risk)
    if isinstance(risk, type) or not callable(risk):
        what = risk.__name__ if isinstance(risk, type) else type(risk).__name__
        raise InvalidRequest(f"the risk is {what}; give a text such as 'zero_one', a risk with its options, or a callable.")
    return cast(Risk, risk)


def known_risk(name: str) -> NamedRisk | None:
    """The risk of the library that the name in a certificate means; None for a user's own risk."""
    try:
        return parse_risk(name)
    except InvalidRequest:
        return None


def is_binary(name: str) -> bool:
    """Whether the losses of the risk that a certificate names are 0 or 1 by definition; a user's own count as real numbers."""
    risk = known_risk(name)
    return risk is not None and risk.binary


def risk_name(risk: str | Risk) -> str:
    """The name that a certificate prints for a risk: its written form, or the name of the user's callable.

    Raises:
        InvalidRequest: the text is no risk, or a user's callable has the name of a risk of the library.
    """
    risk = as_risk(risk)
    if type(risk) in RISKS.values():
        return written(cast(Any, risk))
    name = getattr(risk, "__name__", type(risk).__name__)
    if name.partition(":")[0] in RISKS:
        raise InvalidRequest(f"the function '{name}' has the name of another risk, of the library; rename it.")
    return name


def reads_all_outputs(risk: str | Risk) -> bool:
    """Whether a risk gets all outputs by name; otherwise it gets the first one."""
    return bool(getattr(as_risk(risk), "reads_all_outputs", False))


def outputs_for(risk: str | Risk, names: Sequence[str], outputs: Sequence[np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
    """What a risk reads of a model's outputs: the first one, or all by name where it has `reads_all_outputs`.

    Args:
        risk: a text or a callable.
        names: one for each output.
        outputs: each `[n, ...]`.
    """
    if reads_all_outputs(risk):
        return dict(zip(names, outputs, strict=True))
    return outputs[0]


def losses_of(risk: str | Risk, outputs: Any, labels: np.ndarray | None) -> Float64[np.ndarray, " n"]:
    """The losses `[n]`, float64, of a risk, after a check of what it returns.

    Args:
        risk: the written form of a risk of the library, or a callable `(outputs, labels) -> losses [n]`.
        outputs: the model's output, or a mapping from names to outputs; each with first axis n.
        labels: what the risk compares them with; for `agreement` the original's outputs.

    Raises:
        InvalidRequest: the name is unknown, there are no labels, or the losses aren't one finite number in [0, 1] each.
    """
    call, name = cast(Any, as_risk(risk)), risk_name(risk)
    if labels is None:
        raise InvalidRequest("the held-out data has no labels; add them, or use the risk 'agreement'.")
    n = len(next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs)
    losses = np.asarray(call(outputs, labels))
    if losses.shape != (n,):
        raise InvalidRequest(f"risk '{name}' returned shape {losses.shape} for {n} examples; one loss each is needed.")
    if losses.dtype.kind not in "biuf" or not np.all(np.isfinite(losses)):
        raise InvalidRequest(f"risk '{name}' returned values that aren't finite numbers; clip or smooth it.")
    losses = losses.astype(np.float64)
    if losses.size and (losses.min() < 0 or losses.max() > 1):
        raise InvalidRequest(
            f"risk '{name}' returned losses from {losses.min():g} to {losses.max():g}; rescale and clip them to [0, 1]."
        )
    return losses


def _number(text: str, kind: type, what: str) -> int | float:
    """The value of an option, an integer or a finite number; `what` names it in the message.

    Raises:
        InvalidRequest: the text is something else.
    """
    if kind is int:
        if re.fullmatch(r"[+-]?[0-9]{1,9}", text):
            return int(text)
        raise InvalidRequest(f"{what} is '{text[:40]}'; an integer is needed, e.g. {_EXAMPLES[int]}.")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidRequest(f"{what} is '{text[:40]}'; a finite number is needed, e.g. {_EXAMPLES[float]}.")
    return number


def _shortest(value: int | float) -> str:
    """A number in the fewest digits that read back as the same number."""
    if isinstance(value, int):
        return str(value)
    return short if float(short := f"{value:g}") == value else repr(value)
