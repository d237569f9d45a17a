"""Present the result of a compression as text and as a JSON object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress.reports.certificate import certificate_details, certificate_json
from dyncompress.reports.headline import headline, headline_json
from dyncompress.reports.plain import plain_json
from dyncompress.reports.table import number, percent, stage_name
from dyncompress.types import OnnxFile, Parity, Plan, Profile

SHOWN = 6  # number of outputs that are listed, those with the largest errors


def left_alone_sentence(share: Mapping[str, float], reasons: Mapping[str, str]) -> str:
    """The share of weights and MACs that weren't compressed, and the reasons.

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


def predicted_sentence(plan: Plan, profile: Profile) -> str:
    """A plan's predicted costs, with their shares of the original's, and its predicted distortion.

    Example:
        >>> profile = Profile((), {}, {}, {"a": "fisher"}, {}, 4_000, 0, 100, "", "r", "t")
        >>> predicted_sentence(Plan({}, {}, {}, {"bytes": 1e3, "macs": 50.0}, 0.25, 0.0, "r", "t", "", {}, {}), profile)
        "predicted: 1,000 bytes (25 % of the original's), 50 multiply-accumulates (50 %), distortion 0.25 nats"
    """
    share = {"bytes": plan.cost["bytes"] / profile.float_bytes, "macs": plan.cost["macs"] / max(profile.macs, 1)}
    parts = [
        f"{plan.cost['bytes']:,.0f} bytes ({percent(share['bytes'])} of the original's)",
        f"{plan.cost['macs']:,.0f} multiply-accumulates ({percent(share['macs'])})",
    ]
    if "seconds" in plan.cost:
        parts.append(f"{number(1e3 * plan.cost['seconds'])} ms a run, {number(1e3 * plan.cost['float_seconds'])} before")
    distortion = {"nats": f"{number(plan.distortion)} nats", "relative": f"{number(plan.distortion)} (relative)"}
    return f"predicted: {', '.join(parts)}, distortion {distortion.get(profile.unit, profile.unit)}"


def as_text(file: OnnxFile) -> str:
    """The result as text: bytes, accuracy, time and certificate, then details, layers left alone, notes and the certificate."""
    sizes = file.sizes
    lines = [
        *headline(file),
        "",
        f"ONNX file: {len(file.content):,} bytes, {sizes.compressed:,} zipped, of which {sizes.payload:,} are weights, scales "
        f"and biases; the weights take {sizes.resident:,} bytes in memory; computes in {sizes.compute}",
        f"multiply-accumulates: {file.macs[0]:,} -> {file.macs[1]:,}",
        *inputs_text(file),
        "divergence after each stage: "
        + ", ".join(f"{stage_name(stage)} {number(value)}" for stage, value in file.stages.items()),
        *parity_text(file.parity),
    ]
    if file.fused:
        lines.append("on integer kernels: " + ", ".join(f"{op} {a} of {n}" for op, (a, n) in file.fused.items()))
    lines.append(left_alone_sentence(file.plan.share_left_alone, file.plan.reasons))
    lines += [f"note: {note}" for note in file.notes]
    if file.certificate is not None:
        lines += ["the certificate in detail:", *certificate_details(file.certificate)]
    return "\n".join(lines)


def inputs_text(file: OnnxFile) -> list[str]:
    """A line with the shapes of the file's inputs (a number is a fixed length, a word stands for any); no line without inputs."""
    shapes = "; ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in file.inputs.items())
    return [f"inputs: {shapes} (a name stands for any length)"] if shapes else []


def parity_text(parity: Parity) -> list[str]:
    """Lines on the file's differences from the original model, with each output's worst channel, and from the compressed one.

    Example:
        >>> from dyncompress.types import OutputParity
        >>> for line in parity_text(Parity(1e-7, 0.02, 0.98, 256, (OutputParity("y", 0.02, 1, 3, 0.05, 0.04),), 0.01, 0.99)):
        ...     print(line)
        against the original model, 256 examples: outputs differ by 2 % (RMS), same prediction in 98 %
          output y: 2 % (RMS), worst channel 3 (axis 1) by 5 % of its spread
          against the compressed torch model: 1 % (RMS), same prediction in 99 %; its float graph differs by 1e-07
    """
    lines = [
        f"against the original model, {parity.n} {parity.unit}: outputs differ by {percent(parity.relative_error)} (RMS), same "
        f"prediction in {percent(parity.agreement)}"
    ]
    shown = sorted(parity.outputs, key=lambda output: -np.nan_to_num(output.channel_error))[:SHOWN]
    for output in shown:
        judged = not math.isnan(output.channel_error)
        worst = f", worst channel {output.channel} (axis {output.axis}) by {percent(output.channel_error)} of its spread"
        lines.append(f"  output {output.name}: {percent(output.relative_error)} (RMS){worst * judged}")
    if len(shown) < len(parity.outputs):
        lines.append(f"  and {len(parity.outputs) - len(shown)} outputs with smaller errors")
    lines.append(
        f"  against the compressed torch model: {percent(parity.compressed_error)} (RMS), same prediction in "
        f"{percent(parity.compressed_agreement)}; its float graph differs by {number(parity.float_error, 2)}"
    )
    return lines


def as_json(file: OnnxFile, paths: Mapping[str, Path]) -> dict[str, Any]:
    """The result as a JSON object, which begins with bytes, accuracy, milliseconds and certificate; nan becomes null.

    Args:
        file: the exported file.
        paths: what a file is -> where it was written.
    """
    top = headline_json(file)
    sizes = {**asdict(file.sizes), "file": len(file.content)}
    return plain_json(
        {
            **top,
            "bytes": {**top["bytes"], **sizes},
            "macs": {"before": file.macs[0], "after": file.macs[1]},
            "inputs": file.inputs,
            "left_alone": {**file.plan.share_left_alone, "layers": file.plan.reasons},
            "recipe": file.plan.recipe,
            "target": file.target.name,
            "predicted": {"distortion": file.plan.distortion, "gap": file.plan.gap, **file.plan.cost},
            "candidates": [asdict(one) for one in file.candidates],
            "stages": file.stages,
            "parity": asdict(file.parity),
            "integer_kernels": {op: {"integer": a, "all": n} for op, (a, n) in file.fused.items()},
            "certificate": None if file.certificate is None else certificate_json(file.certificate),
            "notes": file.notes,
            "paths": paths,
        }
    )


def _some(names: list[str], shown: int = 3) -> str:
    """The first few names, and the number of the others."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
