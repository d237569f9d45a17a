"""Heavy-tail allocation against uniform widths at equal bytes, both without data, on the CIFAR ResNets.

All rows use the same rounding. The uniform file of each width sets the budget in bytes of the others. Differences are paired over
all 10 000 test images, with a 95 % interval. `equal error` is the same allocator without tail measures.
Run: `DYNCOMPRESS_DATA=... python -m benchmarks.heavy_tail`
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

import dyncompress as dc
from benchmarks.judging import RESULTS, TARGET, outputs
from tests.data import cifar10, resnet20, resnet44

WIDTHS = (5, 4, 3)


def shipped(model: object, recipe: object, example: np.ndarray, budget: float | None) -> bytes:
    """The ONNX file of one recipe under a budget in bytes."""
    profile = dc.measure(model, recipe, target=TARGET, example=example)
    plan = dc.allocate(profile, dc.Budget(bytes=budget), recipe=recipe)
    return dc.export(dc.apply(model, plan, recipe=recipe, target=TARGET, example=example), target=TARGET).content


def main() -> None:
    """Print and write all rows."""
    x, y = (t.numpy() for t in cifar10("test"))
    heavy = dc.load_recipe("heavy-tail")
    rows = []
    for name, build in (("resnet20", resnet20), ("resnet44", resnet44)):
        model = build()
        for width in WIDTHS:
            uniform = replace(heavy, weight_bits=(width,), coefficients={}, budget=dc.Budget())
            base = shipped(model, uniform, x[:2], None)
            budget = float(len(base) + 1_500)
            wide = replace(heavy, weight_bits=(8, 6, 5, 4, 3, 2))
            rivals = {"heavy-tail": wide, "equal error": replace(wide, coefficients={})}
            before = outputs(base, x).argmax(1) == y
            for rival, recipe in rivals.items():
                content = shipped(model, recipe, x[:2], budget)
                right = outputs(content, x).argmax(1) == y
                gain = right.astype(float) - before
                half = 1.96 * gain.std() / np.sqrt(len(gain))
                rows.append(
                    {
                        "net": name,
                        "uniform_bits": width,
                        "allocation": rival,
                        "uniform_bytes": len(base),
                        "bytes": len(content),
                        "uniform_accuracy": 100 * before.mean(),
                        "accuracy": 100 * right.mean(),
                        "gain": 100 * gain.mean(),
                        "gain_low": 100 * (gain.mean() - half),
                        "gain_high": 100 * (gain.mean() + half),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    (RESULTS / "heavy_tail.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
