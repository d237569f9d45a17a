"""Write the README's table of results from the JSON files beside this script. Run: `python -m benchmarks.readme [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
WORDS = {
    "a": "`edge-int8`",
    "b": "`edge-int4`",
    "c": "`smallest`, `budget.bytes=0.125`",
    "d": "`narrow`, `budget.macs=0.6`",
    "e": "`certified`, `budget.risk_increase=0.02`",
}


def resnet(name: str) -> list[str]:
    """The rows of one network."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    first, batch_1, batch_16 = found["float"], found["batch_1"], found["batch_16"]
    lines = [
        f"Pretrained CIFAR {name.replace('resnet', 'ResNet-')}, float32: {first['bytes']:,} bytes, {first['accuracy']:.2f} % on "
        f"the 10 000 test images. Calibration: 1 024 training images without labels. `python -m benchmarks.resnets --net {name}` "
        f"(onnxruntime {found['environment']['version']}, one thread, {found['environment']['processor_flags']}):",
        "",
        "| recipe | bytes of the file | payload | MACs | accuracy drop, points [95 %] | agreement | faster, batch 1 | batch 16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, r in found["rows"].items():
        lines.append(
            f"| {WORDS[row]} | {r['bytes_percent']:.1f} % | {r['payload_ratio']:.1f}x smaller | {r['macs_percent']:.0f} % "
            f"| {r['drop']:+.2f} [{r['drop_low']:+.2f}, {r['drop_high']:+.2f}] | {r['agreement']:.1f} % "
            f"| {1 / batch_1[row]['relative']:.2f}x | {1 / batch_16[row]['relative']:.2f}x |"
        )
    statements = [r["certificate"] for r in found["rows"].values() if "certificate" in r]
    if statements:
        lines += [
            "",
            "The `certified` row was held out on the first 5 000 test images and is judged on the other 5 000. It says: "
            f"*{statements[0]}*",
        ]
    return lines


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
    lines = [*resnet("resnet20"), *(["", *resnet("resnet44")] if (RESULTS / "resnet44.json").exists() else []), *heavy_tail()]
    new = head + BEGIN + "\n".join(lines) + "\n" + END + tail
    if check:
        return int(new != text)
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
