"""Plans from what Adam left behind, from data, and from both, for the networks of `benchmarks.adam_zoo`, at equal bytes or zeros.

For each network and action, the allocators without data (uniform, relative weight errors, published rules, recorded increments,
and the optimizer's squared gradients) and those with 8 to 1 024 calibration examples (Fisher information alone, and joined with
the squared gradients). All plans are carried out alike: zeros by magnitude or rounding with the least squared error, moments
matched on 256 training examples. The divergence is measured on test examples.

    DYNCOMPRESS_DATA=... python -m benchmarks.adam_allocation [--only NAME ...]     # into out/adam, cell by cell
    python -m benchmarks.adam_allocation --table
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dyncompress as dc
from benchmarks.adam_zoo import OUT, ZOO, trained
from benchmarks.theory import interval
from dyncompress.allocation import RULES
from dyncompress.errors import DyncompressError
from dyncompress.measures import MEASURES
from dyncompress.measures.divergence import per_example
from dyncompress.pipeline.application.round_layers import pruned_weight, rounded_weight
from dyncompress.pipeline.capabilities import match_moments
from dyncompress.pipeline.observed_model import first_examples, outputs
from dyncompress.pipeline.task import InputData, Task, open_task
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Budget, Observation, Option, Plan, Profile, SetWeight, Weight

ACTIONS = {"bits": 3.0, "zeros": 0.7}  # width whose bytes are the budget; share of zeros
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
COUNTS = {8: 3, 32: 3, 128: 1, 1024: 1}  # calibration examples -> number of disjoint draws
MATCHED, TESTS = 256, 1000
TARGET = "onnxruntime-x86-vnni"


@cache
def recipe_of(action: str, source: str) -> Recipe:
    """The recipe of an action, with distortions from one source."""
    measures = {name: MEASURES[name]() for name in ("esd_mid", "farms", "outlier_ratio")} if source == "fisher" else {}
    base = Recipe(name=f"adam-{action}", sensitivity=(source,), measures=measures)
    if action == "zeros":
        return replace(base, pruner=PRUNERS["magnitude"](), sparsities=SPARSITIES, budget=Budget(sparsity=0.7))
    return replace(base, quantizer=QUANTIZERS["mse"](), weight_bits=(8, 6, 5, 4, 3, 2))


@dataclass(frozen=True)
class Cell:
    """A network and an action.

    Attributes:
        name, action: the network and the action.
        module, last: the network and its last checkpoint.
        task: the network open on 1 024 training examples.
        weights: layer -> observation of its weight.
        parts: test inputs in batches.
        before: the original's scores on them.
    """

    name: str
    action: str
    module: torch.nn.Module
    last: Path
    task: Task
    weights: Mapping[str, Observation]
    parts: Sequence[Mapping[str, Any]]
    before: np.ndarray

    def profile(self, source: str, x: Any, trajectory: Any = None) -> Profile:
        """The profile with distortions from a source, on these calibration examples."""
        kind = {"calibration": x} if source == "fisher" else {"example": x[:2]}
        recipe = recipe_of(self.action, source)
        return dc.measure(self.module, recipe, target=TARGET, trajectory=trajectory, **kind)

    def divergence(self, plan: Plan) -> np.ndarray:
        """The divergence of a plan on each test example."""
        edits = []
        for layer, choice in plan.asked.items():
            seen = self.weights[layer]
            pruned = pruned_weight(seen, choice, PRUNERS["magnitude"]())
            edits.append(SetWeight(layer, rounded_weight(seen, pruned, choice, QUANTIZERS["mse"]())[0]))
        edited = self.task.model.edited(edits)
        matched = match_moments(edited, self.task.model, first_examples(self.task.batches, MATCHED))[0]
        return per_example(self.before, outputs(matched, self.parts)[0])


def cell(name: str, action: str) -> Cell:
    """Open a network."""
    module, last = trained(name)
    x, _ = ZOO[name].data("train", 1024)
    task = open_task(module, recipe_of(action, "fisher"), dc.load_target(TARGET), InputData(x))
    key = next(iter(task.batches[0]))
    parts = [{key: part} for part in ZOO[name].data("test", TESTS)[0].split(250)]
    weights = dict(task.observe((Weight(),)))
    return Cell(name, action, module, last, task, weights, parts, outputs(task.model, parts)[0])


def budget_of(action: str, profile: Profile) -> Budget:
    """The share of zeros, or the bytes of a file with 3 bits everywhere; recurrent layers have no fewer than 8."""
    if action == "zeros":
        return Budget(sparsity=ACTIONS[action])
    fewest = (max(min(o.choice.weight_bits for o in options), ACTIONS[action]) for options in profile.table.values())
    parts = (
        next(o.bytes for o in options if o.choice.weight_bits == bits)
        for bits, options in zip(fewest, profile.table.values(), strict=True)
    )
    return Budget(bytes=float(profile.fixed_bytes + sum(parts)))


def plans(here: Cell) -> Iterator[tuple[str, Plan]]:
    """Name and plan of every allocator."""
    x, _ = ZOO[here.name].data("train", 1024)
    whole = here.profile("fisher", x)
    budget = budget_of(here.action, whole)

    def solved(profile: Profile, allocator: Any = None) -> Plan:
        recipe = recipe_of(here.action, "fisher")
        return dc.allocate(profile, budget, recipe=recipe if allocator is None else replace(recipe, allocator=allocator))

    rules = {"uniform": RULES["equal_share"](), "equal error": RULES["equal_error"](), "alpha_pruning": RULES["alpha_pruning"]()}
    rules["farms"] = RULES["alpha_pruning"](measure="farms")
    rules |= {f"random {seed}": RULES["random_share"](seed=seed) for seed in range(3)}
    if here.action == "zeros":
        rules |= {name: RULES[name]() for name in ("erk", "lamp", "owl", "global_magnitude")}
    for name, rule in rules.items():
        yield name, solved(whole, rule)
    yield "weight error", solved(with_distortions(whole, lambda o: o.change.error if o.change else 0.0))
    yield "increments", solved(here.profile("trajectory", x, OUT / f"{here.name}.npz"))
    told = here.profile("trajectory", x, here.last)
    zeros = here.action == "zeros"  # where the library's own rule is the geometric mean of the two
    yield "accumulators", solved(with_distortions(told, alone) if zeros else told)
    yield "accumulators x weight error", solved(told if zeros else with_distortions(told, both))
    yield "fisher 1024", solved(whole)
    for count, draws in COUNTS.items():
        for draw in range(draws):
            some, title = x[draw * count : (draw + 1) * count], f"{count}" + (f" {draw}" if draws > 1 else "")
            if count < len(x):
                yield f"fisher {title}", solved(here.profile("fisher", some))
            yield f"joined {title}", solved(here.profile("fisher", some, here.last))


def with_distortions(profile: Profile, of: Any) -> Profile:
    """The profile with another distortion for every option."""
    table = {unit: tuple(replace(o, distortion=of(o)) for o in options) for unit, options in profile.table.items()}
    return replace(profile, table=table)


def both(option: Option) -> float:
    """The geometric mean of the distortion from the accumulators and the relative squared error."""
    return float(np.sqrt(option.distortion * (option.change.error if option.change else 0.0)))


def alone(option: Option) -> float:
    """The distortion of zeros from the accumulators alone, up to a factor, from that geometric mean."""
    error = option.change.error if option.change else 0.0
    return option.distortion**2 / error if error > 0 else option.distortion


def examined(name: str, action: str, rows: dict[str, Any]) -> dict[str, Any]:
    """The results of one network and action, as plain values; those in `rows` are known."""
    clock, here = time.process_time(), cell(name, action)
    done: dict[str, dict[str, float]] = {}
    for title, plan in plans(here):
        if title in rows:
            continue
        key = str(plan.asked)
        if key not in done:
            lost = here.divergence(plan)
            done[key] = {"divergence": float(lost.mean()), "stderr": float(lost.std() / len(lost) ** 0.5)}
        rows[title] = done[key]
    return {"network": name, "family": ZOO[name].family, "action": action, "rows": rows, "seconds": time.process_time() - clock}


def path(name: str, action: str) -> Path:
    """The file of a cell's results."""
    return OUT / f"{name}_{action}_plans.json"


def known(action: str) -> list[dict[str, Any]]:
    """The cells that exist."""
    return [json.loads(path(name, action).read_text()) for name in ZOO if path(name, action).is_file()]


def share(found: Mapping[str, Any], title: str) -> float:
    """The log of a rival's divergence over the uniform plan's, the mean over its draws."""
    rows = found["rows"]
    own = [row["divergence"] for name, row in rows.items() if name == title or name.rstrip("012").rstrip() == title]
    return float(np.mean(np.log(np.maximum(own, 1e-9)))) - float(np.log(max(rows["uniform"]["divergence"], 1e-9)))


def titles(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rivals, draws together."""
    names = dict.fromkeys(n for one in found for n in one["rows"])
    draws = {name.rpartition(" ")[0] for name in names if name.endswith(" 0")}
    return list(dict.fromkeys(n.rpartition(" ")[0] if n.rpartition(" ")[0] in draws else n for n in names))


def table(action: str) -> str:
    """The divergence as a share of the uniform plan's, geometric mean over networks with a 95 % interval."""
    found = known(action)
    rows = []
    for title in titles(found):
        logs = np.array([share(one, title) for one in found])
        rows.append((float(logs.mean()), title, np.exp(interval(logs)), int((logs < 0).sum())))
    lines = [f"| allocator, {action} | share of uniform's divergence | better on |", "|---|---|---|"]
    for _, title, (middle, low, high), better in sorted(rows):
        lines.append(f"| {title} | {middle:.2f} [{low:.2f}, {high:.2f}] | {better} of {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    """Compute the cells that are missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--actions", nargs="*", default=list(ACTIONS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--again", action="store_true", help="add allocators that a network's results lack")
    args = parser.parse_args()
    if args.table:
        print("\n\n".join(table(action) for action in args.actions if known(action)))
        return
    for name in args.only:
        for action in args.actions:
            before = json.loads(path(name, action).read_text())["rows"] if path(name, action).is_file() else {}
            if before and not args.again:
                continue
            try:
                found = examined(name, action, before)
            except DyncompressError as error:
                print(f"{name}, {action}: {error}", flush=True)
                continue
            path(name, action).write_text(json.dumps(found) + "\n")
            print(f"{name}, {action}: {len(found['rows'])} plans, {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
