"""Step sizes from the recorded end of training, without any data, against step sizes from Fisher information, at equal bytes.

Three recipes are compared on every network of the zoo whose training was recorded: `trajectory` (recorded training and weights),
`packed` with 1 024 calibration examples, and `packed` without sequential compression. Activations stay float, so that the weights
alone are compared. Differences of accuracy are paired over the test examples, with 95 % intervals.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_steps       # needs the networks of benchmarks.theory_zoo
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dyncompress as dc
from benchmarks.theory_zoo import ZOO, trained
from dyncompress.measures.divergence import divergence
from dyncompress.recipe.recipe import Recipe

ON_GRID = {"quantize.trellis": False, "quantize.damping": 0.01, "targets.mirrored": False}  # `packed` without its trellis
RESULT = Path(__file__).parent / "results" / "theory_steps.json"
SHARES = (0.14, 0.11, 0.07)  # of the float32 file's bytes
TESTS = 5000


def recipes() -> dict[str, Recipe]:
    """The recipes by the source of their step sizes. All round to a grid, because the recipe without data does."""
    on_grid = dc.load_recipe("packed", ON_GRID)
    packed = replace(on_grid, activation_bits=32, steps=dc.load_recipe("trajectory").steps)
    return {
        "trajectory": dc.load_recipe("trajectory"),
        "fisher": replace(packed, sequential=False, mirrored=False),
        "fisher, in sequence": packed,
    }


def answered(model: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    """The scores of all examples."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(250)]).numpy()


def compared(name: str) -> list[dict[str, Any]]:
    """The rows of a network, one for each recipe and budget."""
    model, run = trained(name)
    x, y = ZOO[name].data("test", TESTS)
    few = ZOO[name].data("train", 1024)[0]
    before, y = answered(model, x), y.numpy()
    rows: list[dict[str, Any]] = []
    for title, recipe in recipes().items():
        given = {"example": few[:2], "trajectory": run} if title == "trajectory" else {"calibration": few}
        profile = dc.measure(model, recipe, target="onnxruntime-x86-vnni", **given)
        for share in SHARES:
            row: dict[str, Any] = {"network": name, "steps": title, "bytes": share}
            try:
                plan = dc.allocate(profile, dc.Budget(bytes=share), recipe=recipe)
            except dc.Infeasible as error:
                rows.append(row | {"refused": str(error)})
                continue
            small = dc.apply(model, plan, recipe=recipe, target="onnxruntime-x86-vnni", **given)
            after = answered(small.module, x)
            row |= {"spent": plan.cost["bytes"] / profile.float_bytes, "divergence": divergence(before, after)}
            row |= {"float_accuracy": float((before.argmax(1) == y).mean()), "right": (after.argmax(1) == y).tolist()}
            rows.append(row)
    return _paired(rows)


def _paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the accuracies, and the gain over the Fisher rule in points."""
    right = {(row["steps"], row["bytes"]): np.array(row.pop("right"), float) for row in rows if "right" in row}
    for row in rows:
        own, rule = right.get((row["steps"], row["bytes"])), right.get(("fisher", row["bytes"]))
        if own is not None and rule is not None:
            apart = 100 * (own - rule)
            row |= {"accuracy": float(own.mean()), "gain": float(apart.mean())}
            row |= {"half": float(1.96 * apart.std() / len(apart) ** 0.5), "tests": len(apart)}
    return rows


def main() -> None:
    """Compute the rows of every network, and write them after each network."""
    rows: list[dict[str, Any]] = []
    for name, network in ZOO.items():
        if network.epochs:
            for row in compared(name):
                rows.append(row)
                print(json.dumps(row), flush=True)
            RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
