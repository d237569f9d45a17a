"""The report on a compressed file as one self-contained HTML page: no scripts, no fonts, nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from dyncompress.reports import rows
from dyncompress.reports.certificate import bound_text, errors_of, sample_text, vacuous, verdict
from dyncompress.reports.considered import plans_sections
from dyncompress.reports.headline import accuracy, agreement, milliseconds, time_sentence, times_faster, where_timed
from dyncompress.reports.markup import document, items, section, table, text
from dyncompress.reports.summary import inputs_text
from dyncompress.reports.table import Table, choices, estimate_text, layer_table, number, percent, stage_name
from dyncompress.types import FLOAT_BITS, Certificate, Estimate, OnnxFile, Profile


def page(file: OnnxFile, profile: Profile | None = None) -> str:
    """The report as an HTML document.

    Args:
        file: the exported file, certified or not.
        profile: with the measures; None: the profile that the file carries. Without one the report has no measures.

    Returns:
        The text of the page.
    """
    profile = profile or file.profile
    name, target = file.plan.recipe, file.target
    body = [
        f"<h1>{text(name)} for {text(target.name)}</h1>",
        f'<p class="dim">{text(target.summary)}</p><p class="dim">ONNX file: <code>sha256 {_digest(file)}</code></p>',
        figures(file),
        *(f'<p class="dim">{text(line)}</p>' for line in inputs_text(file)),
        f"<section><h2>Certificate</h2>{certificate_block(file.certificate)}</section>",
        *plans_sections(file, profile),
        section("Bytes before and after", _BYTES, _bytes(file)),
        section(
            "Accuracy before and after", "Share of held-out examples with the right prediction.", _accuracy(file.certificate)
        ),
        section("Against the original", _PARITY, _parity(file)),
        section("Divergence after each stage", _STAGES, _stages(file)),
        section("Error by layer", _ERRORS, _errors(file)),
        section("Bits by layer", "The width at which weights are stored in the ONNX file; a full bar is float32.", _bits(file)),
        section("Zeros by layer", "The share of weights that are zero in the file.", _zeros(file)),
        *_measures(profile),
        section("Every layer", _EVERY, _layers(file, profile)),
        section("Left alone", "Layers that stay as they were, with the reason.", _left_alone(file)),
        section("Notes", "What a reader of these numbers should know.", _notes(file, profile)),
    ]
    return document(f"{name}: compression report", "".join(body))


_BYTES = "All bytes of a file count. The payload is weights, scales and biases alone."
_EVERY = "What was done and why. A question mark follows an estimate whose assumptions don't hold."
_STAGES = (
    "Measured on calibration data: mean KL divergence in nats where outputs are scores, else relative squared error. After "
    "pruning, rounding and matching it is the divergence from the original; after export and integer activations, that from the "
    "compressed torch model. Where a stage adds much, more bytes there help most."
)
_ERRORS = "Relative squared error of each layer's output on its own inputs, after pruning and rounding, before matching."
_PARITY = (
    "Each output of the file against the same output of the original model: root mean square error of the whole, and of the "
    "channel with the largest error, relative to that channel's spread."
)


def _parity(file: OnnxFile) -> str:
    """A table with a row for each output."""
    header = ("output", "error", "worst channel", "its error", "by integers and export alone")
    cells = tuple(
        (o.name, percent(o.relative_error), f"{o.channel} (axis {o.axis})", percent(o.channel_error), percent(o.file_error))
        for o in file.parity.outputs
    )
    return table(Table(header, cells, frozenset({"error", "its error"}))) if cells else ""


def _digest(file: OnnxFile) -> str:
    import hashlib

    return hashlib.sha256(file.content).hexdigest()


def figures(file: OnnxFile) -> str:
    """The main numbers, before and after, in large type."""
    shipped = len(file.shipped)
    what = f"the container; its ONNX file takes {len(file.content):,}" if file.packed else "the ONNX file"
    numbers = [
        (f"{file.float_bytes / max(shipped, 1):.2f}×", f"smaller: {shipped:,} bytes ship ({what}), of {file.float_bytes:,}"),
        _quality(file),
        _time(file),
        (f"{file.macs[1]:,}", f"multiply-accumulates, of {file.macs[0]:,}"),
        _untouched(file),
    ]
    cards = (f"<div><b>{escape(figure)}</b><span>{text(words)}</span></div>" for figure, words in numbers)
    return f'<div class="figures">{"".join(cards)}</div>'


def _quality(file: OnnxFile) -> tuple[str, str]:
    """Accuracy if there are labels, else agreement, else the error of the outputs; each with its explanation."""
    rates = accuracy(file)
    if rates is not None:
        return percent(rates[1], 4), f"right, {percent(rates[0], 4)} before ({rates[2]})"
    share, where = agreement(file)
    if math.isnan(share):
        return percent(file.parity.relative_error), f"RMS difference of the outputs on {where}"
    return percent(share, 4), f"same prediction as the original on {where}"


def _time(file: OnnxFile) -> tuple[str, str]:
    """Milliseconds of a run, and how they were measured, or why they weren't."""
    speed = file.speed
    if speed is None or speed.reason:
        return "–", time_sentence(speed).partition(": ")[2].capitalize()
    words = f"a run, {milliseconds(speed.before)} before: {times_faster(speed)}, measured here ({where_timed(speed)})"
    return milliseconds(speed.after), words


def _untouched(file: OnnxFile) -> tuple[str, str]:
    share = file.plan.share_left_alone
    return percent(share.get("weights", 0.0)), f"of the weights left alone ({percent(share.get('macs', 0.0))} of the MACs)"


def certificate_block(certificate: Certificate | None) -> str:
    """The certificate as HTML, or a sentence that there is none."""
    if certificate is None:
        return '<p class="certificate">None: no held-out data was given, so nothing is promised.</p>'
    kind = "broken" if not certificate.kept else "vacuous" if vacuous(certificate) else "kept"
    header = ("quantity", "observed", "certified", "delta", "method")
    cells = tuple((x.quantity, number(x.point, 4), bound_text(x), number(x.delta), x.method) for x in certificate.lines)
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in certificate.counts.items())
    environment = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in certificate.environment.items() if value != "{}")
    counted = f"{sample_text(certificate)}; {counts}. The certificate is {certificate.kind}. Run with {environment}."
    return (
        f'<div class="certificate"><p class="{kind}"><b>{text(certificate.statement)}</b>{text(verdict(certificate))}</p>'
        f'<div class="scroll">{table(Table(header, cells, frozenset({"observed", "delta"})))}</div>'
        f'<p class="dim">{text(counted)}</p>'
        f"<p>It assumes:</p>{items(certificate.assumptions)}</div>"
    )


def _bytes(file: OnnxFile) -> str:
    sizes = file.sizes
    drawn = [
        rows.Bar("original, float32", file.float_bytes, f"{file.float_bytes:,}", soft=True),
        *([rows.Bar("container, ships", len(file.packed), f"{len(file.packed):,}")] if file.packed else []),
        rows.Bar("ONNX file" if file.packed else "ONNX file, ships", len(file.content), f"{len(file.content):,}"),
        rows.Bar("ONNX file, zipped", sizes.compressed, f"{sizes.compressed:,}"),
        rows.Bar("weights in memory", sizes.resident, f"{sizes.resident:,}"),
        rows.Bar("payload", sizes.payload, f"{sizes.payload:,}"),
    ]
    return rows.bars(drawn, "Bytes of the original and of the shipped file")


def _accuracy(certificate: Certificate | None) -> str:
    """Bars of both networks' accuracy, if the certificate counted errors."""
    errors = None if certificate is None else errors_of(certificate)
    if certificate is None or errors is None:
        return ""
    n = certificate.counts.get("examples", certificate.n)
    drawn = [
        rows.Bar(name, 1 - wrong / n, f"{percent(1 - wrong / n)} ({wrong:,} of {n:,} wrong)", soft)
        for name, wrong, soft in (("original", errors[0], True), ("shipped file", errors[1], False))
    ]
    return rows.bars(drawn, "Accuracy of the original and of the shipped file", full=1.0)


def _stages(file: OnnxFile) -> str:
    drawn = [rows.Bar(stage_name(stage), value, number(value)) for stage, value in file.stages.items()]
    return rows.bars(drawn, "Divergence from the original after each stage") if drawn else ""


def _errors(file: OnnxFile) -> str:
    drawn = [
        rows.Bar(layer, rounded, f"{number(rounded)}, of which pruning {number(pruned)}" if pruned else number(rounded))
        for layer, (pruned, rounded) in file.errors.items()
    ]
    return rows.bars(drawn, "Relative output error of each layer") if drawn else ""


def _bits(file: OnnxFile) -> str:
    done = choices(file.plan)
    drawn = [rows.Bar(unit, c.weight_bits, _width(c.weight_bits)) for unit, c in done.items() if unit in file.plan.shapes]
    drawn += [rows.Bar(layer, FLOAT_BITS, "float, left alone", soft=True) for layer in file.plan.reasons if layer not in done]
    return rows.bars(drawn, "Stored width of each layer's weights", full=FLOAT_BITS)


def _width(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else f"{bits} bits"


def _zeros(file: OnnxFile) -> str:
    sparse = {unit: choice for unit, choice in choices(file.plan).items() if choice.sparsity}
    if not sparse:
        return ""
    drawn = [rows.Bar(u, c.sparsity, percent(c.sparsity) + (f" ({c.pattern})" if c.pattern else "")) for u, c in sparse.items()]
    return rows.bars(drawn, "Share of zeros in each layer", full=1.0)


def _measures(profile: Profile | None) -> list[str]:
    """A section with a drawing for each measure."""
    if profile is None:
        return []
    how = "Each dot is an estimate, its whisker one standard error; it is grey where the estimate's assumptions don't hold."
    return [section(f"Measured: {name}", how, _dots(name, by_layer)) for name, by_layer in profile.estimates.items()]


def _dots(name: str, by_layer: Mapping[str, Estimate]) -> str:
    drawn = [rows.Point(layer, e.value, e.stderr, estimate_text(e), not e.valid) for layer, e in by_layer.items()]
    return rows.points(drawn, f"{name} of each layer with its standard error") if drawn else ""


def _layers(file: OnnxFile, profile: Profile | None) -> str:
    if profile is None:
        return table(layer_table(file.plan))
    return table(layer_table(file.plan, profile.layers, profile.estimates))


def _left_alone(file: OnnxFile) -> str:
    return items([f"`{layer}`: {why}" for layer, why in file.plan.reasons.items()])


def _notes(file: OnnxFile, profile: Profile | None) -> str:
    notes = dict.fromkeys([*file.notes, *(profile.notes if profile else ())])
    estimates = profile.estimates if profile else {}
    for measure, by_layer in estimates.items():
        notes |= dict.fromkeys(f"{measure}, {layer}: {note}" for layer, e in by_layer.items() for note in e.notes)
    gap = file.plan.gap
    if math.isfinite(gap) and gap > 0:
        notes[f"the plan may be up to {percent(gap)} of the distortion's range from the best one of the additive table"] = None
    fused = [f"{op}: {a} of {n} on integer kernels" for op, (a, n) in file.fused.items() if a < n]
    return items([*notes, *fused])
