"""Entropy-coded weights at an eighth of the size: step sizes and rounding from Adam's accumulators, from data, and from both.

For every network of `benchmarks.adam_zoo`: recipe `trajectory` on the checkpoint alone, without any data; `packed` with 1 024 and
with 32 calibration examples (Fisher information); and with 32 examples beside the checkpoint. Activations stay float, so that the
weights alone are compared, and all round to a grid, as the recipe without data does. Differences of accuracy from the Fisher rule
with 1 024 examples are paired over the test examples, with 95 % intervals.

    DYNCOMPRESS_DATA=... python -m benchmarks.adam_steps [--only NAME ...]     # into out/adam, network by network
    python -m benchmarks.adam_steps --table
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

import dyncompress as dc
from benchmarks.adam_zoo import OUT, ZOO, trained
from benchmarks.theory_steps import answered, recipes
from dyncompress.measures.divergence import divergence

SHARE, TESTS, FEW = 0.125, 5000, 32
RULE = "fisher 1024"
TARGET = "onnxruntime-x86-vnni"


def examined(name: str) -> dict[str, Any]:
    """The divergence and accuracy of each way on one network."""
    module, last = trained(name)
    few = ZOO[name].data("train", 1024)[0]
    x, y = ZOO[name].data("test", TESTS)
    before, truth = answered(module, x), y.numpy()
    by_source = recipes()
    ways = {
        RULE: (by_source["fisher"], {"calibration": few}),
        "accumulators": (by_source["trajectory"], {"example": few[:2], "trajectory": last}),
        f"fisher {FEW}": (by_source["fisher"], {"calibration": few[:FEW]}),
        f"joined {FEW}": (by_source["fisher"], {"calibration": few[:FEW], "trajectory": last}),
        "weight error": (dc.load_recipe("trajectory", {"sensitivity": ["theory"]}), {"example": few[:2]}),
    }
    rows: dict[str, Any] = {}
    right = {}
    for title, (recipe, given) in ways.items():
        try:
            profile = dc.measure(module, recipe, target=TARGET, **given)
            plan = dc.allocate(profile, dc.Budget(bytes=SHARE), recipe=recipe)
        except dc.Infeasible as error:
            rows[title] = {"refused": str(error)}
            continue
        small = dc.apply(module, plan, recipe=recipe, target=TARGET, **given)
        after = answered(small.module, x)
        right[title] = (after.argmax(1) == truth).astype(float)
        rows[title] = {"bytes": plan.cost["bytes"] / profile.float_bytes, "divergence": divergence(before, after)}
        rows[title] |= {"accuracy": float(right[title].mean()), "tests": len(truth)}
    for title, own in right.items():
        if RULE in right:
            apart = 100 * (own - right[RULE])
            rows[title] |= {"gain": float(apart.mean()), "half": float(1.96 * apart.std() / len(apart) ** 0.5)}
    return {"network": name, "family": ZOO[name].family, "accuracy": float((before.argmax(1) == truth).mean()), "rows": rows}


def table() -> str:
    """Accuracies, and the differences from the Fisher rule in points."""
    found = [json.loads(file.read_text()) for name in ZOO if (file := OUT / f"{name}_steps.json").is_file()]
    columns = list(found[0]["rows"]) if found else []
    lines = ["| network | float | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for one in found:
        cells = [_text(one["rows"][title], title) for title in columns]
        lines.append(f"| {one['network']} | {100 * one['accuracy']:.2f} | " + " | ".join(cells) + " |")
    for title in columns[1:]:
        gains = np.array([one["rows"][title]["gain"] for one in found if "gain" in one["rows"][title]])
        if len(gains):
            lines.append(f"\n{title}: mean {gains.mean():+.2f} points, {int((gains > -0.5).sum())} of {len(gains)} above -0.5")
    return "\n".join(lines)


def _text(row: dict[str, Any], title: str) -> str:
    """One cell of the table."""
    if "accuracy" not in row:
        return "refused"
    if title == RULE or "gain" not in row:
        return f"{100 * row['accuracy']:.2f}; {row['divergence']:.3g} nats"
    return f"{row['gain']:+.2f} ± {row['half']:.2f}; {row['divergence']:.3g} nats"


def main() -> None:
    """Compute the networks that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    for name in args.only:
        file = OUT / f"{name}_steps.json"
        if not file.is_file():
            file.write_text(json.dumps(found := examined(name)) + "\n")
            print(name, json.dumps(found["rows"]), flush=True)


if __name__ == "__main__":
    main()
