"""Write the README's promise and table of heavy tails from the JSON files here. Run: `python -m benchmarks.readme [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def certified() -> list[str]:
    """The row with a promise."""
    r = json.loads((RESULTS / "certified.json").read_text())
    return [
        f"With a promise (`certified`, `budget.risk_increase={r['risk_increase']:g}`, ResNet-20, "
        f"`python -m benchmarks.certified`): held out on the first 5 000 test images, the boldest file that keeps it has "
        f"{r['bytes_percent']:.1f} % of the bytes; on the other 5 000 images it drops by {r['drop']:+.2f} points "
        f"[{r['drop_low']:+.2f}, {r['drop_high']:+.2f}]. Its certificate: *{r['certificate']}*",
    ]


def heavy_tail() -> list[str]:
    """Heavy-tail against uniform."""
    path = RESULTS / "heavy_tail.json"
    if not path.exists():
        return []
    lines = [
        "",
        "Data-free allocation at equal bytes, paired over the 10 000 test images (`python -m benchmarks.heavy_tail`). Gain over "
        "uniform widths, points [95 %]:",
        "",
        "| network | uniform | accuracy | `heavy-tail` | equal relative error |",
        "|---|---|---|---|---|",
    ]
    rows = json.loads(path.read_text())
    for net, bits in dict.fromkeys((r["net"], r["uniform_bits"]) for r in rows):
        by = {r["allocation"]: r for r in rows if (r["net"], r["uniform_bits"]) == (net, bits)}
        gains = [f"{r['gain']:+.2f} [{r['gain_low']:+.2f}, {r['gain_high']:+.2f}]" for r in (by["heavy-tail"], by["equal error"])]
        lines.append(f"| {net} | {bits} bits | {by['heavy-tail']['uniform_accuracy']:.2f} % | {gains[0]} | {gains[1]} |")
    return lines


def main() -> int:
    """Rewrite the block, or with `--check` only compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    lines = [*certified(), *heavy_tail()]
    new = head + BEGIN + "\n".join(lines) + "\n" + END + tail
    if check:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
