"""How well Adam's second moments say which layers can be compressed, beside Fisher information from few or many examples.

For each network of `benchmarks.adam_zoo` and each of its layers: the divergence on test examples when that layer alone is
compressed and moments are matched, and what is predicted of it: by Fisher information from 1024 to 8 calibration examples, by the
recorded increments, by the squared gradients that the checkpoint's optimizer has accumulated, and by measures of the weights.
Zeros are chosen by magnitude, and weights are rounded with the least squared error, with one scale a channel.

    DYNCOMPRESS_DATA=... python -m benchmarks.adam_damage [--only NAME ...] [--again]     # into out/adam; --again: predictions
    python -m benchmarks.adam_damage --table
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dyncompress as dc
from benchmarks.adam_zoo import OUT, ZOO, trained
from benchmarks.theory import interval, spearman
from benchmarks.theory_damage import PROBED
from dyncompress.measures import MEASURES
from dyncompress.measures.divergence import per_example
from dyncompress.pipeline.application.round_layers import pruned_weight, rounded_weight
from dyncompress.pipeline.capabilities import match_moments
from dyncompress.pipeline.observed_model import first_examples, outputs
from dyncompress.pipeline.profiling.candidates import fisher_distortion, motion_distortion
from dyncompress.pipeline.task import InputData, Task, open_task, with_run
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.quantization.input_prior import InputPrior
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    Choice,
    HessianSpectrum,
    InputMoment,
    NoiseGain,
    Observation,
    OutputFisher,
    SetWeight,
    Weight,
    WeightFisher,
)

CALIBRATION = 1024
FEW = {1024: 1, 128: 1, 32: 3, 8: 3}  # calibration examples -> number of disjoint draws of so many
SLOW = ("viewer-4", "reader-6", "residual-14")  # evaluated on 500 test examples instead of 1000
CHOICES = {
    "50 % zeros": Choice(sparsity=0.5),
    "70 % zeros": Choice(sparsity=0.7),
    "4 bits": Choice(weight_bits=4),
    "3 bits": Choice(weight_bits=3),
}
TARGET = "onnxruntime-x86-vnni"


@dataclass(frozen=True)
class Subject:
    """A network opened on its calibration examples.

    Attributes:
        name: of the network.
        module: in eval mode.
        last: file of its last checkpoint.
        start: the network, open.
        weights: layer -> observation of its weight.
    """

    name: str
    module: nn.Module
    last: Path
    start: Task
    weights: Mapping[str, Observation]

    def compressed(self, layer: str, choice: Choice) -> Tensor:
        """The weight of a layer, compressed."""
        observation = self.weights[layer]
        pruned = pruned_weight(observation, choice, PRUNERS["magnitude"]())
        return rounded_weight(observation, pruned, choice, QUANTIZERS["mse"]())[0]


def recipe_of() -> Recipe:
    """A recipe with all measures but those that need many derivatives."""
    made = {name: make() for name, make in MEASURES.items()}
    kept = {n: m for n, m in made.items() if not any(isinstance(need, HessianSpectrum | NoiseGain) for need in m.needs)}
    return Recipe(name="adam-damage", sensitivity=("fisher",), measures=kept, quantizer=QUANTIZERS["mse"](), weight_bits=(4, 3))


def subject(name: str) -> Subject:
    """Train or load a network, and open it."""
    module, last = trained(name)
    x, _ = ZOO[name].data("train", CALIBRATION)
    start = open_task(module, recipe_of(), dc.load_target(TARGET), InputData(x))
    layers = {layer.name for layer in start.model.layers() if not layer.left_alone}
    weights = {layer: observation for layer, observation in start.observe((Weight(),)) if layer in layers}
    return Subject(name, module, last, start, weights)


# ---------------------------------------------------------------- truth
def divergences(here: Subject, tests: int) -> dict[str, Any]:
    """Layer -> level -> the divergence on test examples when this layer alone is compressed and moments are matched."""
    model, few = here.start.model, first_examples(here.start.batches, PROBED)
    x, y = ZOO[here.name].data("test", tests)
    key = next(iter(here.start.batches[0]))
    parts = [{key: part} for part in x.split(250)]
    before, layers = outputs(model, parts)[0], {}
    for layer in here.weights:
        rows = {}
        for level, choice in CHOICES.items():
            edited = model.edited([SetWeight(layer, here.compressed(layer, choice))])
            lost = per_example(before, outputs(match_moments(edited, model, few)[0], parts)[0])
            rows[level] = {"truth": float(lost.mean()), "truth_stderr": float(lost.std() / len(lost) ** 0.5)}
        layers[layer] = rows
    return {"accuracy": float((before.argmax(1) == np.asarray(y)).mean()), "tests": tests, "layers": layers}


# ---------------------------------------------------------------- the optimizer's state
@dataclass(frozen=True)
class Accumulated:
    """What the optimizer's state says of one layer.

    Attributes:
        weight: as it was trained, `[out, ...]`.
        second: mean of the squared gradient of a minibatch, without bias, in the weight's shape.
        first: mean of that gradient, without bias, in the weight's shape.
        batch: examples of a minibatch, whose mean gradient has this many times less variance than that of an example.
        inertia: share of the gradient's variance that is left in `first`.
    """

    weight: Tensor
    second: Tensor
    first: Tensor
    batch: int
    inertia: float

    def gain(self, folded: Tensor) -> Tensor:
        """What folding multiplied each row by, `[out, 1, ...]`."""
        own, other = self.weight.double().flatten(1), folded.double().flatten(1)
        gain = (own * other).sum(1) / own.square().sum(1).clamp_min(1e-300)
        return gain.reshape(-1, *[1] * (folded.ndim - 1))

    def fisher(self, folded: Tensor) -> Tensor:
        """The Fisher information of the folded weight, so that half of it times a squared error is in nats; 0 for empty rows."""
        gain = self.gain(folded)
        return torch.where(gain == 0, 0.0, self.batch * self.second.double() / gain.square().clamp_min(1e-300))

    def variance(self) -> Accumulated:
        """The same without the squared mean of the gradient, so far as `first` knows it."""
        variance = (self.second - self.first.square()).clamp_min(0) / (1 - self.inertia)
        return replace(self, second=variance)


def accumulated(module: nn.Module, last: Path, layers: Sequence[str]) -> dict[str, Accumulated]:
    """Layer -> its part of the optimizer's state in a checkpoint."""
    kept = torch.load(last)
    places = {name: place for place, (name, _) in enumerate(module.named_parameters())}
    beta1, beta2 = kept["optimizer"]["param_groups"][0]["betas"]
    found = {}
    for layer in layers:
        owner, _, matrix = layer.rpartition(".")
        parameter = f"{layer}.weight" if f"{layer}.weight" in places else f"{owner}.weight_{matrix}"
        state, steps = kept["optimizer"]["state"][places[parameter]], kept["step"]
        second, first = state["exp_avg_sq"] / (1 - beta2**steps), state["exp_avg"] / (1 - beta1**steps)
        weight, inertia = kept["model"][parameter], (1 - beta1) / (1 + beta1)
        found[layer] = Accumulated(weight, second, first, kept["batch_size"], inertia)
    return found


# ---------------------------------------------------------------- predictions
def fishers(here: Subject, tests: int) -> Iterator[tuple[str, dict[str, Observation]]]:
    """Name of a set of calibration examples -> the layers, observed on it.

    The sets are of training examples, as where users keep nothing aside; "unseen" is of test examples beyond the first `tests`.
    """
    x, _ = ZOO[here.name].data("train", CALIBRATION)
    sets = {
        f"fisher {count}" + (f" {draw}" if draws > 1 else ""): x[draw * count : (draw + 1) * count]
        for count, draws in FEW.items()
        for draw in range(draws)
    }
    sets["fisher unseen"] = ZOO[here.name].data("test", tests + CALIBRATION)[0][tests:]
    for title, part in sets.items():
        if len(part):
            start = open_task(here.module, recipe_of(), dc.load_target(TARGET), InputData(part))
            yield title, dict(start.observe((Weight(), InputMoment(), OutputFisher())))


def by_fisher(weight: Tensor, new: Tensor, observation: Observation, fisher: Tensor) -> dict[str, float]:
    """The distortions that a Fisher information of every weight predicts, from most to fewest assumptions about inputs."""
    error = (weight - new).double()
    known = Observation(observation.layer, {WeightFisher(): fisher.float()})
    return {
        "acc_diag": 0.5 * float((fisher * error.square()).sum()),
        "acc_prior": motion_distortion(known, weight, new),
        "acc_layer": 0.5 * float(fisher.mean() * error.square().sum()),
    }


def variants(weight: Tensor, new: Tensor, observation: Observation, state: Accumulated) -> dict[str, float]:
    """Other readings of the optimizer's state: each leaves out, or puts in, one thing that might matter."""
    error, fisher, old = (weight - new).double(), state.fisher(weight), weight.double()
    along = (error * old).flatten(1).sum(1) / old.square().flatten(1).sum(1).clamp_min(1e-300)
    across = error - along.reshape(-1, *[1] * (error.ndim - 1)) * old  # moment matching undoes the rest
    known, prior = Observation(observation.layer, {WeightFisher(): fisher.float()}), InputPrior(mean=0.0)
    rows, columns = prior.split(weight, known)
    return {
        "acc_across": 0.5 * float((fisher * across.square()).sum()),
        "acc_variance": 0.5 * float((state.variance().fisher(weight) * error.square()).sum()),
        "acc_centred": 0.5 * float((prior.energy(error, columns, observation.layer.kind) * rows).sum()),
        "acc_unfolded": 0.5 * state.batch * float((state.second * error.square()).sum()),
    }


def predictions(here: Subject, tests: int) -> dict[str, Any]:
    """Layer -> level -> predictor -> distortion; `tests` test examples are left to the divergences."""
    rows = {layer: {level: {} for level in CHOICES} for layer in here.weights}
    states = accumulated(here.module, here.last, list(here.weights))
    changed = {(layer, level): here.compressed(layer, CHOICES[level]) for layer in rows for level in CHOICES}
    moved = dict(with_run(here.start, OUT / f"{here.name}.npz").observe((Weight(),)))
    for (layer, level), new in changed.items():
        weight = here.weights[layer][Weight()].detach().float()
        told, observation, state = rows[layer][level], here.weights[layer], states[layer]
        told["error"] = float((weight - new).double().square().sum() / weight.double().square().sum())
        told |= by_fisher(weight, new, observation, state.fisher(weight)) | variants(weight, new, observation, state)
        told["trajectory"] = motion_distortion(moved[layer], weight, new)
    for title, seen in fishers(here, tests):
        for (layer, level), new in changed.items():
            weight = here.weights[layer][Weight()].detach().float()
            rows[layer][level][title] = fisher_distortion(seen[layer], weight, new)
    return rows


def estimates_of(here: Subject) -> dict[str, dict[str, Any]]:
    """Layer -> measure -> estimate."""
    profile = dc.measure(with_run(here.start, OUT / f"{here.name}.npz"), here.start.recipe, target=TARGET)
    kept: dict[str, dict[str, Any]] = {layer: {} for layer in here.weights}
    for measure, found in profile.estimates.items():
        for layer, estimate in found.items():
            if layer in kept:
                kept[layer][measure] = {key: asdict(estimate)[key] for key in ("value", "stderr", "valid")}
    return kept


def examined(name: str, old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The results of one network, as plain values; divergences and measures are those of `old` if it is given."""
    clock, here = time.process_time(), subject(name)
    truth = old or divergences(here, 500 if name in SLOW else 1000) | {"estimates": estimates_of(here)}
    told, shapes = predictions(here, truth["tests"]), {layer.name: layer for layer in here.start.model.layers()}
    layers = {layer: {level: row | told[layer][level] for level, row in rows.items()} for layer, rows in truth["layers"].items()}
    sizes = {layer: {"weights": shapes[layer].weights, "kind": shapes[layer].kind} for layer in layers}
    return {**truth, "network": name, "family": ZOO[name].family, "layers": layers, "sizes": sizes} | {
        "seconds": time.process_time() - clock
    }


def path(name: str) -> Path:
    """The file of a network's results."""
    return OUT / f"{name}_damage.json"


def known() -> list[dict[str, Any]]:
    """The results that exist, in the order of the zoo."""
    return [json.loads(path(name).read_text()) for name in ZOO if path(name).is_file()]


# ---------------------------------------------------------------- table
def column(found: Mapping[str, Any], level: str, key: str) -> np.ndarray:
    """One number for each layer: of a predictor, of a measure, its number of weights or its depth.

    Layers of which a predictor says nothing get its median distortion for a unit of relative error, as in the library.
    """
    layers = found["layers"]
    if key == "weights":
        return np.array([found["sizes"][layer]["weights"] for layer in layers], float)
    if key == "depth":
        return np.arange(len(layers), dtype=float)
    if key in next(iter(layers.values()))[level]:
        values = np.array([rows[level][key] for rows in layers.values()], float)
        errors = np.array([rows[level]["error"] for rows in layers.values()], float)
        rates = (values / errors)[np.isfinite(values) & (errors > 0)]
        return np.where(np.isfinite(values), values, (np.median(rates) if len(rates) else 1.0) * errors)
    return np.array([found["estimates"][layer].get(key, {}).get("value") or np.nan for layer in layers], float)


def predictors(found: Mapping[str, Any]) -> list[str]:
    """The names of everything that predicts: distortions, measures, number of weights and depth."""
    first = next(iter(next(iter(found["layers"].values())).values()))
    measures = dict.fromkeys(key for kept in found["estimates"].values() for key in kept)
    return [*(key for key in first if not key.startswith("truth")), *measures, "weights", "depth"]


def correlations(nets: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Level -> predictor -> its rank correlation with the divergence over the layers of each network; draws are averaged."""
    rows: dict[str, dict[str, list[float]]] = {}
    for level in CHOICES:
        columns: dict[str, list[list[float]]] = {}
        for place, found in enumerate(nets):
            truth = column(found, level, "truth")
            for key in predictors(found):
                title = " ".join(key.split(" ")[:2])
                columns.setdefault(title, [[] for _ in nets])[place].append(spearman(column(found, level, key), truth))
        rows[level] = {title: [float(np.mean(each)) if each else np.nan for each in found] for title, found in columns.items()}
    return rows


def row(title: str, cells: Iterable[str]) -> str:
    """One line of a table in Markdown."""
    return f"| {title} | {' | '.join(cells)} |"


def head(title: str, cells: Sequence[str]) -> list[str]:
    """The first two lines of a table in Markdown, after an empty one."""
    return ["", row(title, cells), "|---" * (len(cells) + 1) + "|"]


def differences(nets: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    """How much better the accumulators order layers than Fisher information: on all networks, and where it knows all layers."""
    lines = head("acc_prior less ..., networks", list(CHOICES))
    known_all = [all(size["kind"] != "recurrent" for size in found["sizes"].values()) for found in nets]
    for rival in ("fisher 1024", "fisher unseen", "acc_diag", "acc_layer"):
        for which, chosen in (("all", [True] * len(nets)), ("not recurrent", known_all)):
            cells, count = [], 0
            for level in CHOICES:
                apart = np.subtract(rows[level]["acc_prior"], rows[level][rival])[chosen]
                count = int(np.isfinite(apart).sum())
                cells.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*interval(apart.tolist())))
            lines.append(row(f"{rival}, {which}: {count}", cells))
    return lines


def scales(nets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The divergence by its prediction, whose ideal is 1: the median over the layers of each network."""
    lines = head("divergence / prediction by accumulators, by fisher 1024", list(CHOICES))
    for found in nets:
        ratios = [
            [np.median(column(found, level, "truth") / column(found, level, key)) for key in ("acc_prior", "fisher 1024")]
            for level in CHOICES
        ]
        lines.append(row(found["network"], (f"{own:.2f}, {other:.2f}" for own, other in ratios)))
    return lines


def table(nets: Sequence[Mapping[str, Any]]) -> str:
    """Mean rank correlations with their 95 % intervals over networks, and those of each network, in Markdown."""
    rows = correlations(nets)
    means = {title: [interval(rows[level][title]) for level in CHOICES] for title in rows["3 bits"]}
    order = sorted(means, key=lambda title: -np.nan_to_num(np.mean([m for m, _, _ in means[title]]), nan=-1.0))
    lines = head(f"predictor, mean over {len(nets)} networks", list(CHOICES))
    lines += [row(title, (f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in means[title])) for title in order]
    lines += differences(nets, rows)
    shown = [title for title in order if title.startswith(("fisher ", "acc", "trajectory", "error"))]
    for level in CHOICES:
        lines += head(level, ["layers", *shown])
        for place, found in enumerate(nets):
            each = [f"{rows[level][title][place]:.2f}" for title in shown]
            lines.append(row(found["network"], [str(len(found["layers"])), *each]))
    return "\n".join([*lines, *scales(nets)][1:])


def main() -> None:
    """Compute the results that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--again", action="store_true", help="compute predictions again, and keep divergences")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if args.table else args.only:
        old = json.loads(path(name).read_text()) if path(name).is_file() else None
        if old is None or args.again:
            found = examined(name, old)
            path(name).write_text(json.dumps(found) + "\n")
            print(f"{name}: {len(found['layers'])} layers, {found['seconds']:.0f} s", flush=True)
    if args.table:
        print(table(known()))


if __name__ == "__main__":
    main()
