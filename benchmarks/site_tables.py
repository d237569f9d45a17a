"""Tables in Markdown for the README and the site's page of benchmarks, each from one JSON file of `results/`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.frontier_results import RESULTS, Summary, read, summary
from benchmarks.frontier_rows import ROWS
from benchmarks.frontier_tables import drop, rule

HEADLINE_NET = "resnet20"
HEADLINE = (  # at most eight rows
    "edge-int8",
    "edge-int4",
    "edge-int3",
    "edge-int2",
    "packed",
    "onnxruntime static, per channel",
    "NNCF",
    "torch-pruning magnitude global 1.5x + BatchNorm",
)


def load(name: str) -> Any:
    """One file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def headline() -> Iterable[str]:
    """A few recipes beside the peers on one network, with the command that makes each row."""
    found = read(HEADLINE_NET)
    first = found["float"]
    yield f"ResNet-20 on CIFAR-10, {first['bytes']:,} bytes and {first['accuracy']:.2f} % in float32:"
    yield ""
    command = f"python -m benchmarks.frontier --nets {HEADLINE_NET}"
    head = f"| | accuracy drop, points: mean [best, worst] | ONNX file | container | `{command}` |"
    yield from (head, rule(head))
    for name in HEADLINE:
        row = next(row for row in ROWS if row.name == name)
        made = summary(name, row.seeds, found)
        assert made is not None, f"{name}: run the benchmark first"
        yield headline_line(name, row.tool, made)


def headline_line(name: str, tool: str, made: Summary) -> str:
    """One row of the README's table; ratios are the worst draw's."""
    shown = f"`{name}`" if tool == "dyncompress" else name
    return f"| {shown} | {drop(made)} | {made.file_ratio:.1f}x smaller | {made.container_ratio:.1f}x | `--rows '{name}'` |"


def certified() -> Iterable[str]:
    """The row with a promise."""
    r = load("certified")
    yield (
        f"With a promise (`certified`, `budget.risk_increase={r['risk_increase']:g}`, ResNet-20, "
        f"`python -m benchmarks.certified`): held out on the first 5 000 test images, the boldest file that keeps it has "
        f"{r['bytes_percent']:.1f} % of the bytes; on the other 5 000 images it drops by {r['drop']:+.2f} points "
        f"[{r['drop_low']:+.2f}, {r['drop_high']:+.2f}]. Its certificate: *{r['certificate']}*"
    )


def heavy_tail() -> Iterable[str]:
    """Heavy-tail against uniform."""
    yield "Gain over uniform widths, points [95 %]:"
    yield ""
    yield "| network | uniform | accuracy | `heavy-tail` | equal relative error |"
    yield "|---|---|---|---|---|"
    rows = load("heavy_tail")
    for net, bits in dict.fromkeys((r["net"], r["uniform_bits"]) for r in rows):
        by = {r["allocation"]: r for r in rows if (r["net"], r["uniform_bits"]) == (net, bits)}
        gains = [f"{r['gain']:+.2f} [{r['gain_low']:+.2f}, {r['gain_high']:+.2f}]" for r in (by["heavy-tail"], by["equal error"])]
        yield f"| {net} | {bits} bits | {by['heavy-tail']['uniform_accuracy']:.2f} % | {gains[0]} | {gains[1]} |"


def soundness() -> Iterable[str]:
    """How many networks came out sound, told or refused, by recipe."""
    verdicts = ("sound", "told", "refused", "silent", "crash")
    counts: Mapping[str, Counter[str]] = defaultdict(Counter)
    for cell, outcome in load("soundness").items():
        counts[cell.rpartition(" | ")[2]][outcome["verdict"]] += 1
    yield f"| recipe | {' | '.join(verdicts)} |"
    yield "|---|" + "---|" * len(verdicts)
    for recipe, found in counts.items():
        yield f"| `{recipe}` | {' | '.join(str(found[verdict]) for verdict in verdicts)} |"


def violations() -> Iterable[str]:
    """The highest violation rate of every procedure over its laws, with the delta that it was allowed there."""
    table = load("violation")
    cells = table["cells"]
    yield f"{len(cells)} cells, {table['repetitions']:,} repetitions each; flagged: {table['flagged']}."
    yield ""
    yield "| procedure | laws | highest rate over delta | rate there | delta there |"
    yield "|---|---|---|---|---|"
    for name in dict.fromkeys(cell["procedure"] for cell in cells):
        own = [cell for cell in cells if cell["procedure"] == name]
        worst = max(own, key=lambda cell: cell["rate"] / cell["delta"])
        share = worst["rate"] / worst["delta"]
        yield f"| `{name}` | {len(own)} | {share:.2f} | {worst['rate']:.4f} | {worst['delta']:g} |"


def architectures() -> Iterable[str]:
    """Architectures through `edge-int8`: what is left alone, how far outputs are off, what runs on integers."""
    yield "| architecture | weights | left alone | bytes | outputs differ by | on integer kernels |"
    yield "|---|---|---|---|---|---|"
    for r in load("architectures"):
        fused = ", ".join(f"{op} {integer} of {total}" for op, (integer, total) in r["fused"].items())
        yield (
            f"| {r['architecture']} | {r['weights']:,} | {100 * r['weights_left_alone']:.1f} % | {r['bytes_percent']:.1f} % "
            f"| {100 * r['relative_error']:.2g} % | {fused} |"
        )


def install() -> Iterable[str]:
    """What an installation costs."""
    r = load("install")
    yield f"{r['packages_beside_torch']} packages beside torch: {', '.join(r['packages'])}."
    yield ""
    yield "| what is imported | seconds |"
    yield "|---|---|"
    for what, seconds in r["import_seconds"].items():
        yield f"| {what} | {seconds:.2f} |"


def runtimes() -> Iterable[str]:
    """The same quantized network in several runtimes."""
    found = load("runtimes")
    environment = found.pop("environment")
    yield "| network | runtime | bytes | largest difference | ms, batch 1 |"
    yield "|---|---|---|---|---|"
    for network, seen in found.items():
        for runtime, r in seen.items():
            far = "-" if "float" in runtime else f"{100 * r['difference']:.2g} %"
            yield f"| {network} | {runtime} | {r['bytes']:,} | {far} | {r['milliseconds']:.3g} |"
    yield ""
    yield (
        f"{environment['processor']}, one thread; onnxruntime {environment['version']}, OpenVINO {environment['openvino']}, "
        f"LiteRT {environment['litert']}."
    )
