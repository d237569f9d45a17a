"""One self-contained page about a compressed file: no script, no font, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from dyncompress.reports import svg
from dyncompress.reports.summary import bound_text, errors_of, percent, sample_text, vacuous, verdict
from dyncompress.reports.table import Table, choices, estimate_text, layer_table, number
from dyncompress.types import FLOAT_BITS, Certificate, Estimate, OnnxFile, Profile

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --ink: #1f2430; --dim: #626a78; --rule: #dcdad3; --mark: #2f6f8f;
  --soft: #b9b4a6; --good: #2c7a4b; --bad: #a8392f; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181d; --ink: #e5e7ea; --dim: #99a1ad; --rule: #333942; --mark: #6fb3d1; --soft: #5d626b; --good: #74c493;
    --bad: #e88a80; --warn: #e0b060; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; } .dim { color: var(--dim); } .kept { color: var(--good); } .broken { color: var(--bad); }
.vacuous { color: var(--warn); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.25rem 0; }
.figures b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; } .figures span { color: var(--dim); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--dim); font-weight: 600; } .right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.certificate { border: 1px solid var(--rule); border-left: 4px solid var(--mark); padding: .8rem 1rem; }
svg { max-width: 100%; height: auto; display: block; font-size: 11px; }
svg .mark { fill: var(--mark); }
svg .soft { fill: var(--soft); } svg text { fill: var(--ink); } svg .tick { fill: var(--dim); font-size: 10px; }
svg .rule { stroke: var(--rule); } svg .whisker { stroke: var(--mark); stroke-width: 1.5; }
ul { padding-left: 1.2rem; } code { font-size: .9em; overflow-wrap: anywhere; }
"""


def page(file: OnnxFile, profile: Profile | None = None) -> str:
    """The whole report as one HTML document.

    Args:
        file: finished, certified or not.
        profile: what was measured, where it is at hand; None leaves the measures out.
    """
    name = file.plan.recipe
    body = [
        f"<h1>{escape(name)} for {escape(file.target.name)}</h1>",
        f'<p class="dim">{escape(file.target.summary)} File <code>sha256 {_digest(file)}</code></p>',
        _figures(file),
        _certificate(file.certificate),
        _section("Bytes before and after", "Every byte of a file; payload is weights, scales and biases alone.", _bytes(file)),
        _section("Accuracy before and after", "Share of held-out examples that are answered right.", _accuracy(file.certificate)),
        _section("Against the original", _PARITY, _parity(file)),
        _section("Where the accuracy went", _STAGES, _stages(file)),
        _section("Error by layer", _ERRORS, _errors(file)),
        _section("Bits by layer", "The width at which weights are stored; a full bar is float32.", _bits(file)),
        _section("Zeros by layer", "The share of weights that are zero in the file.", _zeros(file)),
        *_measures(profile),
        _section("Every layer", "What was done and why; ? marks an estimate whose own conditions fail.", _layers(file, profile)),
        _left_alone(file),
        _notes(file, profile),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: compression report</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


_STAGES = (
    "Divergence on calibration data (KL in nats for scores, else relative squared error): from the original after prune, weights "
    "and match; from the compressed model after export and integer activations. Spend bytes where a stage adds much."
)
_ERRORS = "Relative squared error of each layer's output on its own inputs, after pruning and rounding, before matching."


_PARITY = (
    "Each output of the file against the same output of the model that came in: root mean square error of the whole, and of the "
    "channel that is furthest off, relative to that channel's spread."
)


def _parity(file: OnnxFile) -> str:
    """A row an output."""
    header = ("output", "error", "worst channel", "its error", "by integers and export alone")
    rows = tuple(
        (o.name, percent(o.relative_error), f"{o.channel} (axis {o.axis})", percent(o.channel_error), percent(o.file_error))
        for o in file.parity.outputs
    )
    return _table(Table(header, rows, frozenset({"error", "its error"}))) if rows else ""


def _digest(file: OnnxFile) -> str:
    import hashlib

    return hashlib.sha256(file.content).hexdigest()


def _section(title: str, text: str, content: str) -> str:
    """A heading, a sentence that says how to read it, the content; nothing where there is no content."""
    if not content:
        return ""
    return f'<section><h2>{escape(title)}</h2><p class="dim">{escape(text)}</p><div class="scroll">{content}</div></section>'


def _figures(file: OnnxFile) -> str:
    """The few numbers that one looks for first."""
    shipped, share = len(file.content), file.plan.share_left_alone
    found = [
        (f"{file.float_bytes / shipped:.2f}×", "fewer bytes"),
        (f"{shipped:,}", f"bytes, of {file.float_bytes:,}"),
        (f"{file.macs[1]:,}", f"MACs, of {file.macs[0]:,}"),
        (percent(file.parity.agreement), f"same answer as the original, {file.parity.n} examples"),
        (percent(share.get("weights", 0.0)), f"of the weights left alone ({percent(share.get('macs', 0.0))} of the MACs)"),
    ]
    items = (f"<div><b>{escape(figure)}</b><span>{escape(text)}</span></div>" for figure, text in found)
    return f'<div class="figures">{"".join(items)}</div>'


def _certificate(certificate: Certificate | None) -> str:
    """The promise, or the plain statement that there is none."""
    if certificate is None:
        none = "None: no held-out data was given, so nothing is promised."
        return f'<section><h2>Certificate</h2><p class="certificate">{none}</p></section>'
    kind = "broken" if not certificate.kept else "vacuous" if vacuous(certificate) else "kept"
    header = ("quantity", "observed", "certified", "delta", "method")
    rows = tuple((x.quantity, number(x.point, 4), bound_text(x), number(x.delta), x.method) for x in certificate.lines)
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in certificate.counts.items())
    assumptions = "".join(f"<li>{escape(sentence)}</li>" for sentence in certificate.assumptions)
    environment = ", ".join(f"{key} {value}" for key, value in certificate.environment.items())
    counted = f"{sample_text(certificate)}; {counts}. {certificate.kind}. {environment}"
    statement = f"<b>{escape(certificate.statement)}</b>{escape(verdict(certificate))}"
    return (
        f'<section><h2>Certificate</h2><div class="certificate"><p class="{kind}">{statement}</p>'
        f"{_table(Table(header, rows, frozenset({'observed', 'delta'})))}"
        f'<p class="dim">{escape(counted)}</p>'
        f"<p>It assumes:</p><ul>{assumptions}</ul></div></section>"
    )


def _bytes(file: OnnxFile) -> str:
    sizes = file.sizes
    rows = [
        svg.Bar("original, float32", file.float_bytes, f"{file.float_bytes:,}", soft=True),
        svg.Bar("shipped file", len(file.content), f"{len(file.content):,}"),
        svg.Bar("shipped, zipped", sizes.compressed, f"{sizes.compressed:,}"),
        svg.Bar("weights in memory", sizes.resident, f"{sizes.resident:,}"),
        svg.Bar("payload", sizes.payload, f"{sizes.payload:,}"),
    ]
    return svg.bars(rows, "Bytes of the original and of the shipped file")


def _accuracy(certificate: Certificate | None) -> str:
    """Accuracy of both networks, where the certificate counted errors."""
    errors = None if certificate is None else errors_of(certificate)
    if certificate is None or errors is None:
        return ""
    n = certificate.counts.get("examples", certificate.n)
    rows = [
        svg.Bar(name, 1 - wrong / n, f"{percent(1 - wrong / n)} ({wrong:,} of {n:,} wrong)", soft)
        for name, wrong, soft in (("original", errors[0], True), ("shipped file", errors[1], False))
    ]
    return svg.bars(rows, "Accuracy of the original and of the shipped file", full=1.0)


def _stages(file: OnnxFile) -> str:
    rows = [svg.Bar(stage, value, number(value)) for stage, value in file.stages.items()]
    return svg.bars(rows, "Divergence from the original after each stage") if rows else ""


def _errors(file: OnnxFile) -> str:
    rows = [
        svg.Bar(layer, rounded, f"{number(rounded)}, of which pruning {number(pruned)}" if pruned else number(rounded))
        for layer, (pruned, rounded) in file.errors.items()
    ]
    return svg.bars(rows, "Relative output error of each layer") if rows else ""


def _bits(file: OnnxFile) -> str:
    done = choices(file.plan)
    rows = [svg.Bar(unit, c.weight_bits, _width(c.weight_bits)) for unit, c in done.items() if unit in file.plan.shapes]
    rows += [svg.Bar(layer, FLOAT_BITS, "float, left alone", soft=True) for layer in file.plan.reasons if layer not in done]
    return svg.bars(rows, "Stored width of each layer's weights", full=FLOAT_BITS)


def _width(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else f"{bits} bits"


def _zeros(file: OnnxFile) -> str:
    sparse = {unit: choice for unit, choice in choices(file.plan).items() if choice.sparsity}
    if not sparse:
        return ""
    rows = [svg.Bar(u, c.sparsity, percent(c.sparsity) + (f" ({c.pattern})" if c.pattern else "")) for u, c in sparse.items()]
    return svg.bars(rows, "Share of zeros in each layer", full=1.0)


def _measures(profile: Profile | None) -> list[str]:
    """One drawing a measure."""
    if profile is None:
        return []
    text = "Each dot is an estimate, its whisker one standard error; grey where the estimator's own conditions fail."
    return [_section(f"Measured: {name}", text, _dots(name, found)) for name, found in profile.estimates.items()]


def _dots(name: str, found: dict[str, Estimate] | object) -> str:
    estimates: dict[str, Estimate] = dict(found)  # type: ignore[call-overload]
    rows = [svg.Point(layer, e.value, e.stderr, estimate_text(e), not e.valid) for layer, e in estimates.items()]
    return svg.points(rows, f"{name} of each layer with its standard error") if rows else ""


def _layers(file: OnnxFile, profile: Profile | None) -> str:
    if profile is None:
        return _table(layer_table(file.plan))
    return _table(layer_table(file.plan, profile.layers, profile.estimates))


def _left_alone(file: OnnxFile) -> str:
    items = "".join(f"<li><code>{escape(layer)}</code>: {escape(why)}</li>" for layer, why in file.plan.reasons.items())
    return _section("Left alone", "Layers that nothing touched, with the reason.", f"<ul>{items}</ul>" if items else "")


def _notes(file: OnnxFile, profile: Profile | None) -> str:
    notes = dict.fromkeys([*file.notes, *(profile.notes if profile else ())])
    estimates = profile.estimates if profile else {}
    for measure, found in estimates.items():
        notes |= dict.fromkeys(f"{measure}, {layer}: {note}" for layer, e in found.items() for note in e.notes)
    gap = file.plan.gap
    if math.isfinite(gap) and gap > 0:
        notes[f"the plan may be up to {percent(gap)} of the distortion's range from the best one of the additive table"] = None
    fused = [f"{op}: {a} of {n} on integer kernels" for op, (a, n) in file.fused.items() if a < n]
    items = "".join(f"<li>{escape(note)}</li>" for note in [*notes, *fused])
    return _section("Notes", "Warnings and conditions met on the way.", f"<ul>{items}</ul>" if items else "")


def _table(table: Table) -> str:
    """An HTML table; numeric columns to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        pairs = zip(table.header, row, strict=True)
        return "".join(f"<{tag}{' class=right' if name in table.numeric else ''}>{escape(cell)}</{tag}>" for name, cell in pairs)

    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f"<table><thead><tr>{cells(table.header, 'th')}</tr></thead><tbody>{rows}</tbody></table>"
