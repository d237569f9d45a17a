"""The divergence when one layer alone is compressed, for every network of the zoo: the truth that predictions are compared with.

For each network: the value of every measure, the exact error of every option, the Fisher-weighted output error, and the
divergence when one layer alone is compressed and moments are matched, on 256 calibration examples (the probe) and on test
examples. Zeros are chosen by magnitude, and weights are rounded with the least squared error. Nothing else changes.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_damage [--only NAME ...] [--actions zeros bits]     # into out/theory
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import dyncompress as dc
from benchmarks.theory_zoo import OUT, ZOO, trained
from dyncompress.measures import MEASURES
from dyncompress.measures.divergence import per_example
from dyncompress.pipeline.application.round_layers import pruned_weight, rounded_weight
from dyncompress.pipeline.capabilities import match_moments
from dyncompress.pipeline.observed_model import first_examples, outputs
from dyncompress.pipeline.task import InputData, Task, open_task, with_run
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Budget, HessianSpectrum, NoiseGain, Profile, SetWeight, Weight

CALIBRATION, PROBED = 1024, 256
LARGE = ("resnet20", "resnet44")  # with fewer test examples, and without measures that need many derivatives
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
WIDTHS = (8, 6, 5, 4, 3, 2)
LEVELS = {"zeros": (0.3, 0.5, 0.7, 0.8, 0.9), "bits": (4, 3, 2)}  # levels that are probed and evaluated
BOLD = {"zeros": 0.7, "bits": 3}  # level of the single probe of a layer


@cache
def recipe_of(action: str, large: bool) -> Recipe:
    """A recipe with the options of an action and all measures."""
    left_out = (HessianSpectrum, NoiseGain) if large else ()
    measures = {name: make() for name, make in MEASURES.items()}
    measures = {name: m for name, m in measures.items() if not any(isinstance(need, left_out) for need in m.needs)}
    base = Recipe(name=f"theory-{action}", sensitivity=("fisher",), measures=measures)
    if action == "zeros":
        return replace(base, pruner=PRUNERS["magnitude"](), sparsities=SPARSITIES, budget=Budget(sparsity=0.7))
    return replace(base, quantizer=QUANTIZERS["mse"](), weight_bits=WIDTHS)


@dataclass(frozen=True)
class Setting:
    """A network opened for one action.

    Attributes:
        name, action: the network and the action.
        start: the network with its calibration data.
        recipe: its options and measures.
        profile: measured once.
        x, y: test examples.
        weights: layer -> observation of its weight, from which options are carried out.
        motion: layer -> distortion of every option, predicted from the recorded increments; empty without a trajectory.
    """

    name: str
    action: str
    start: Task
    recipe: Recipe
    profile: Profile
    x: Any
    y: Any
    weights: Mapping[str, Any] = field(default_factory=dict)
    motion: Mapping[str, list[float]] = field(default_factory=dict)

    def changed(self, choices: Mapping[str, Any]) -> list[SetWeight]:
        """The edits that carry out the options of a plan."""
        found = []
        for layer, choice in choices.items():
            observation = self.weights[layer]
            pruned = pruned_weight(observation, choice, self.recipe.pruner)
            found.append(SetWeight(layer, rounded_weight(observation, pruned, choice, self.recipe.quantizer)[0]))
        return found

    def realised(self, choices: Mapping[str, Any], examples: int = PROBED) -> Any:
        """The network with these options carried out and its moments matched."""
        edited = self.start.model.edited(self.changed(choices))
        return match_moments(edited, self.start.model, first_examples(self.start.batches, examples))[0]


def setting(name: str, action: str, tests: int) -> Setting:
    """Train or load the network, open it, and measure it."""
    model, run = trained(name)
    recipe = recipe_of(action, name in LARGE)
    x, _ = ZOO[name].data("train", CALIBRATION)
    start = open_task(model, recipe, dc.load_target("onnxruntime-x86-vnni"), InputData(x))
    start = with_run(start, run) if run else start
    profile = dc.measure(start, recipe, target="onnxruntime-x86-vnni")
    test_x, test_y = ZOO[name].data("test", tests)
    seen = {layer: observation for layer, observation in start.observe((Weight(),)) if layer in profile.table}
    moved = {}
    if run:
        told = dc.measure(start, replace(recipe, sensitivity=("trajectory",), measures={}), target="onnxruntime-x86-vnni")
        moved = {layer: [o.distortion for o in options] for layer, options in told.table.items()}
    return Setting(name, action, start, recipe, profile, test_x, test_y, seen, moved)


def level(choice: Any) -> float:
    """The sparsity or the width, whichever the action changes."""
    return choice.sparsity if choice.weight_bits == 32 else choice.weight_bits


def scores(setting: Setting, model: Any) -> np.ndarray:
    """The scores of a model on the test examples."""
    name = next(iter(setting.start.batches[0]))
    return outputs(model, [{name: part} for part in setting.x.split(250)])[0]


def examined(name: str, action: str, tests: int) -> dict[str, Any]:
    """The results of one network and action, as plain values."""
    clock = time.process_time()
    here = setting(name, action, tests)
    profile, model = here.profile, here.start.model
    few = first_examples(here.start.batches, PROBED)
    before, truth = outputs(model, few)[0], scores(here, model)
    shapes = {layer.name: layer for layer in profile.layers}
    layers = []
    for place, (layer, options) in enumerate(profile.table.items()):
        rows: list[dict[str, float]] = [
            {"level": level(o.choice), "error": o.change.error if o.change else 0.0, "fisher": o.distortion} for o in options
        ]
        for row, distortion in zip(rows, here.motion.get(layer, ()), strict=False):
            row["increments"] = distortion
        for row, option in zip(rows, options, strict=True):
            if row["level"] not in LEVELS[action]:
                continue
            edited = here.realised({layer: option.choice})
            seen, hidden = per_example(before, outputs(edited, few)[0]), per_example(truth, scores(here, edited))
            row |= {"probe": float(seen.mean()), "probe_stderr": float(seen.std() / len(seen) ** 0.5)}
            row |= {"truth": float(hidden.mean()), "truth_stderr": float(hidden.std() / len(hidden) ** 0.5)}
        estimates = {m: asdict(found[layer]) for m, found in profile.estimates.items() if layer in found}
        kept = {m: {key: e[key] for key in ("value", "stderr", "valid")} for m, e in estimates.items()}
        shape = shapes[layer]
        layers.append(
            {"layer": layer, "place": place, "weights": shape.weights, "fan_in": shape.fan_in, "macs": shape.macs}
            | {"options": rows, "estimates": kept}
        )
    right = float((truth.argmax(1) == np.asarray(here.y)).mean())
    return {
        "network": name,
        "family": ZOO[name].family,
        "action": action,
        "accuracy": right,
        "tests": tests,
        "left_alone": dict(profile.reasons),
        "layers": layers,
        "seconds": time.process_time() - clock,
    }


def path(name: str, action: str) -> Path:
    """The file of a network's results."""
    return OUT / f"{name}_{action}.json"


def known(action: str) -> Iterator[dict[str, Any]]:
    """The results that exist, in the order of the zoo."""
    for name in ZOO:
        if path(name, action).is_file():
            yield json.loads(path(name, action).read_text())


def asked(description: str | None) -> list[tuple[str, str]]:
    """The networks and actions that the command line names; all if it names none."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--actions", nargs="*", default=list(LEVELS))
    args = parser.parse_args()
    return [(name, action) for name in args.only for action in args.actions]


def main() -> None:
    """Compute the results that are missing."""
    for name, action in asked(__doc__):
        if not path(name, action).is_file():
            found = examined(name, action, 500 if name in LARGE else 1000)
            path(name, action).write_text(json.dumps(found) + "\n")
            print(f"{name}, {action}: {len(found['layers'])} layers, {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
