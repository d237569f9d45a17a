"""The result of a run: as sentences for a person, as one object for a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.reports.table import number
from dyncompress.types import Certificate, Line, OnnxFile, Parity

SHOWN = 6  # outputs, those that are furthest off


def left_alone_sentence(share: Mapping[str, float], reasons: Mapping[str, str]) -> str:
    """The share of weights and MACs that nothing touched, and why.

    Example:
        >>> left_alone_sentence({"weights": 0.25, "macs": 0.1}, {"head": "the recipe leaves it alone"})
        'left alone: 25 % of the weights, 10 % of the MACs (head: the recipe leaves it alone)'
    """
    layers_of: dict[str, list[str]] = {}
    for layer, reason in reasons.items():
        layers_of.setdefault(reason, []).append(layer)
    text = f"left alone: {percent(share.get('weights', 0.0))} of the weights, {percent(share.get('macs', 0.0))} of the MACs"
    listed = [f"{_some(layers)}: {reason}" for reason, layers in layers_of.items()]
    return text + (f" ({'; '.join(listed)})" if listed else "")


def percent(fraction: float) -> str:
    """A fraction as a person reads it.

    Example:
        >>> percent(0.1234), percent(0.0), percent(float("nan"))
        ('12.3 %', '0 %', '–')
    """
    return "–" if math.isnan(fraction) else f"{100 * fraction:.3g} %"


def as_text(file: OnnxFile) -> str:
    """Sizes, work, stages, parity, integer kernels, what was left alone, the certificate, and warnings."""
    sizes, parity = file.sizes, file.parity
    shipped = len(file.content)
    lines = [
        f"bytes: {file.float_bytes:,} -> {shipped:,} ({file.float_bytes / shipped:.2f} times smaller; {sizes.compressed:,} "
        f"zipped, {sizes.resident:,} resident, {sizes.payload:,} payload; computes in {sizes.compute})",
        f"MACs: {file.macs[0]:,} -> {file.macs[1]:,}",
        f"where the accuracy went: {', '.join(f'{stage} {number(value)}' for stage, value in file.stages.items())}",
        *parity_text(parity),
    ]
    if file.certificate is not None and (errors := errors_of(file.certificate)) is not None:
        lines.append(f"errors on {sample_text(file.certificate)}: {errors[0]:,} -> {errors[1]:,}")
    if file.fused:
        lines.append("on integer kernels: " + ", ".join(f"{op} {a} of {n}" for op, (a, n) in file.fused.items()))
    lines.append(left_alone_sentence(file.plan.share_left_alone, file.plan.reasons))
    lines += [f"note: {note}" for note in file.notes]
    lines.append("not certified: no held-out data was given" if file.certificate is None else certificate_text(file.certificate))
    return "\n".join(lines)


def parity_text(parity: Parity) -> list[str]:
    """How far the file is from the model that came in, each output's worst channel, and beneath it from the compressed model.

    Example:
        >>> from dyncompress.types import OutputParity
        >>> for line in parity_text(Parity(1e-7, 0.02, 0.98, 256, (OutputParity("y", 0.02, 1, 3, 0.05, 0.04),), 0.01, 0.99)):
        ...     print(line)
        against the model that came in, 256 examples: outputs differ by 2 % (RMS), same answer in 98 %
          output y: 2 % (RMS), worst channel 3 (axis 1) by 5 % of its spread
          against the compressed torch model: 1 % (RMS), same answer in 99 %; its float graph differs by 1e-07
    """
    lines = [
        f"against the model that came in, {parity.n} examples: outputs differ by {percent(parity.relative_error)} (RMS), same "
        f"answer in {percent(parity.agreement)}"
    ]
    shown = sorted(parity.outputs, key=lambda output: -np.nan_to_num(output.channel_error))[:SHOWN]
    for output in shown:
        judged = not math.isnan(output.channel_error)
        worst = f", worst channel {output.channel} (axis {output.axis}) by {percent(output.channel_error)} of its spread"
        lines.append(f"  output {output.name}: {percent(output.relative_error)} (RMS){worst * judged}")
    if len(shown) < len(parity.outputs):
        lines.append(f"  and {len(parity.outputs) - len(shown)} outputs that are less far off")
    lines.append(
        f"  against the compressed torch model: {percent(parity.compressed_error)} (RMS), same answer in "
        f"{percent(parity.compressed_agreement)}; its float graph differs by {number(parity.float_error, 2)}"
    )
    return lines


def errors_of(certificate: Certificate) -> tuple[int, int] | None:
    """Errors of the original and of the file on the held-out examples; None where the risk doesn't count errors."""
    counts = certificate.counts
    if certificate.risk != "zero_one" or not {"original_errors", "file_errors"} <= counts.keys():
        return None
    return counts["original_errors"], counts["file_errors"]


def certificate_text(certificate: Certificate) -> str:
    """The statement, each line with its bound and share of delta, the counts, and the assumptions."""
    lines = [f"certificate: {certificate.statement}{verdict(certificate)}"]
    lines += [
        f"  {line.quantity}: {number(line.point, 4)} observed, {bound_text(line)} ({line.method}, delta {number(line.delta)})"
        for line in certificate.lines
    ]
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in certificate.counts.items())
    lines.append(f"  {sample_text(certificate)}; {counts}")
    lines += [f"  assumes: {sentence}" for sentence in certificate.assumptions]
    return "\n".join(lines)


def vacuous(certificate: Certificate) -> bool:
    """Whether the certificate promises nothing."""
    from dyncompress.certificates.wording import is_vacuous

    return is_vacuous(certificate)


def sample_text(certificate: Certificate) -> str:
    """How many held-out examples, and how many groups of them where these are the independent units."""
    from dyncompress.certificates.wording import sample

    return sample(certificate)


def verdict(certificate: Certificate) -> str:
    """What follows a statement: whether the promise is kept, or that nothing is promised; empty where nothing was asked for."""
    from dyncompress.certificates.wording import VACUOUS  # here, since that package needs scipy and `unpack` does without it

    if certificate.promise is not None and not certificate.kept:
        return " (PROMISE NOT KEPT)"
    if vacuous(certificate):
        return " (PROMISES NOTHING)" if VACUOUS in certificate.statement else f" (PROMISES NOTHING: {VACUOUS})"
    return "" if certificate.promise is None else " (promise kept)"


def bound_text(line: Line) -> str:
    """What is certified of one quantity; a one-sided bound leaves its other end at the range's limit, -1 or 0.

    Example:
        >>> bound_text(Line("risk increase", 0.0, -1.0, 0.004, 0.05, "")), bound_text(Line("risk", 0.1, 0.05, 0.2, 0.05, ""))
        ('at most 0.004', 'within [0.05, 0.2]')
    """
    if line.lower in (-1.0, 0.0):
        return f"at most {number(line.upper, 4)}"
    return f"within [{number(line.lower, 4)}, {number(line.upper, 4)}]"


def as_json(file: OnnxFile, paths: Mapping[str, Path]) -> dict[str, Any]:
    """One object: bytes and MACs before and after, what was left alone, parity, certificate, paths. nan becomes null."""
    return plain_json(
        {
            "bytes": {"before": file.float_bytes, "after": len(file.content), **asdict(file.sizes)},
            "macs": {"before": file.macs[0], "after": file.macs[1]},
            "left_alone": {**file.plan.share_left_alone, "layers": file.plan.reasons},
            "recipe": file.plan.recipe,
            "target": file.target.name,
            "predicted": {"distortion": file.plan.distortion, "gap": file.plan.gap, **file.plan.cost},
            "stages": file.stages,
            "parity": asdict(file.parity),
            "integer_kernels": {op: {"integer": a, "all": n} for op, (a, n) in file.fused.items()},
            "certificate": None if file.certificate is None else certificate_json(file.certificate),
            "notes": file.notes,
            "paths": paths,
        }
    )


def certificate_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate without its evidence, which lies in `certificate.json`, and `vacuous`: whether it promises nothing."""
    told = {name: value for name, value in asdict(certificate).items() if name != "evidence"}
    return plain_json({**told, "vacuous": vacuous(certificate)})


def plain_json(value: Any) -> Any:
    """The value with names as strings, arrays as lists, and numbers that JSON lacks as null.

    Example:
        >>> plain_json({"a": float("nan"), "b": (1, 2), "c": Path("x")})
        {'a': None, 'b': [1, 2], 'c': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [plain_json(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _some(names: list[str], shown: int = 3) -> str:
    """The first few names."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
