"""Tail rules on the kinds of network that they were made for: language models, a sentence encoder, vision transformers.

Rules for large language models read a layer's tolerance from the tail of its spectrum (AlphaPruning, FARMS), from its outliers
(OWL) or from the kurtosis of its weights. For each network: the divergence on test examples when one layer alone has 50 or 70 %
zeros, or is rounded to 3 bits; the rank correlations of every measure with it; whether kurtosis goes with the error of
rounding; and whole networks at equal zeros by every rule, all with zeros by magnitude and moments matched. The constants of rules
are tuned on calibration data. The divergence of the sentence encoder is the mean of 1 - cosine, otherwise KL in nats.

    DYNCOMPRESS_DATA=... python -m benchmarks.tail_rules [--only 'minilm *']     # into benchmarks/results; --table
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import dyncompress as dc
from benchmarks import adam_zoo, cells, gallery_text
from benchmarks.theory import interval, spearman
from benchmarks.theory_allocation import Rival, bases, planned
from benchmarks.theory_damage import SPARSITIES, Setting
from dyncompress.measures import MEASURES
from dyncompress.measures.divergence import per_example
from dyncompress.pipeline.application.round_layers import rounded_weight
from dyncompress.pipeline.observed_model import outputs
from dyncompress.pipeline.profiling.candidates import fisher_distortion, motion_distortion
from dyncompress.pipeline.task import InputData, open_task, with_run
from dyncompress.pruning import PRUNERS
from dyncompress.quantization import QUANTIZERS
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import Budget, Choice, InputMoment, Observation, OutputFisher, Weight

PATH = Path(__file__).with_name("results") / "tail_rules.json"
OUT = Path(__file__).parent.parent / "out" / "tails"
TARGET = "onnxruntime-x86-vnni"
ZOO = ("reader-4", "reader-6", "viewer-4", "viewer-4-digits")  # of benchmarks.adam_zoo
NETS = ("minilm", "gpt", *ZOO)
LEVELS = {"50 % zeros": Choice(sparsity=0.5), "70 % zeros": Choice(sparsity=0.7), "3 bits": Choice(weight_bits=3)}
BUDGETS = (0.6, 0.7)  # shares of zeros of a whole network
TAILS = ("esd_mid", "esd_peak", "farms", "outlier_ratio", "kurtosis")
MADE_FOR = {"esd_mid": 1, "esd_peak": 1, "farms": 1, "outlier_ratio": -1, "kurtosis": -1}  # 1: a larger value loses more weights
EPSILONS = (-0.2, -0.1, 0.1, 0.2, 0.3)
BANDS = (0.02, 0.04, 0.08, 0.15)  # of OWL
ROUNDINGS = {
    "nearest, 3 bits, one grid": ("nearest", Choice(weight_bits=3, granularity="tensor")),
    "nearest, 4 bits, one grid": ("nearest", Choice(weight_bits=4, granularity="tensor")),
    "nearest, 4 bits, a grid a channel": ("nearest", Choice(weight_bits=4)),
    "least squares, 3 bits, a grid a channel": ("mse", Choice(weight_bits=3)),
}
SENTENCES = {"calibration": 64, "test": 96}
KEYS = [f"{name} | {part}" for name in NETS for part in ("measures", *LEVELS, *(f"plans {b:g}" for b in BUDGETS))]


# ---------------------------------------------------------------- networks
class LastPlace(nn.Module):
    """A language model's scores of the character after the last one."""

    def __init__(self, model: nn.Module) -> None:
        """Take a model that scores every place."""
        super().__init__()
        self.model = model

    def forward(self, characters: Tensor) -> Tensor:
        """`[n, length]` -> `[n, symbols]`."""
        return self.model(characters)[:, -1]


def gpt() -> tuple[nn.Module, Path]:
    """The gallery's GPT, trained on WikiText-2, and the file with the optimizer's state."""
    path = OUT / "gpt.pt"
    if not path.is_file():
        kept: dict[str, Any] = {}
        handle = register_optimizer_step_post_hook(lambda optimizer, *_: kept.update(optimizer=optimizer))
        try:
            made = gallery_text.trained(gallery_text.Gpt, gallery_text.GPT_STEPS, 3e-3, gallery_text.text("training"))
        finally:
            handle.remove()
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": made.state_dict(), "optimizer": kept["optimizer"].state_dict()}
        torch.save(state | {"step": gallery_text.GPT_STEPS, "batch_size": gallery_text.BATCH}, path)
    module = gallery_text.Gpt()
    module.load_state_dict(torch.load(path)["model"])
    return LastPlace(module).eval(), path


def load_network(name: str) -> tuple[nn.Module, Path | None, Any, Any]:
    """A network, the file with its optimizer's state if there is one, calibration data and test examples."""
    if name == "minilm":
        sentences = gallery_text.pairs()[0][: SENTENCES["test"]]
        given = gallery_text.calibration_sentences()[: SENTENCES["calibration"]]
        calibration, tests = ([inputs for _, inputs in gallery_text.sentence_batches(each)] for each in (given, sentences))
        return gallery_text.minilm(), None, calibration, tests
    if name == "gpt":
        calibration, tests = (torch.from_numpy(gallery_text.passages(split)[0][::2]) for split in ("calibration", "test"))
        return *gpt(), calibration, [{"characters": part} for part in tests.split(125)]
    module, last = adam_zoo.trained(name)
    data = adam_zoo.ZOO[name].data
    x, (tests, _) = data("train", 1024)[0], data("test", 1000)
    key = "tokens" if name.startswith("reader") else "x"
    return module, last, x, [{key: part} for part in tests.split(250)]


def one_minus_cosine(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    """1 - cosine of each embedding with its original, `[n]`."""
    a, b = reference.astype(np.float64), output.astype(np.float64)
    return 1 - (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


@dataclass(frozen=True)
class Case:
    """A network with its options and what they are compared on.

    Attributes:
        here: the network, open; its profile has the options of zeros and the values of the tail measures.
        saved: layer -> the Fisher information of its weights from the optimizer's state; empty without one.
        tests: test examples.
        before: outputs of the network on them, and on the calibration examples.
        apart: the divergence of each example from (reference, output).
    """

    here: Setting
    saved: Mapping[str, Observation]
    tests: Sequence[Mapping[str, Any]]
    before: tuple[np.ndarray, np.ndarray]
    apart: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def lost(self, choices: Mapping[str, Choice]) -> Iterator[np.ndarray]:
        """The divergence of each test example, then of each calibration example, under these choices with moments matched."""
        edited = self.here.realised(choices)
        for before, batches in zip(self.before, (self.tests, self.here.start.batches), strict=True):
            yield self.apart(before, outputs(edited, batches)[0])


def recipe() -> Recipe:
    """Zeros by magnitude, rounding with the least squared error, and the tail measures."""
    measures = {name: MEASURES[name]() for name in (*TAILS, "hill", "stable_rank")}
    tools = {"pruner": PRUNERS["magnitude"](), "quantizer": QUANTIZERS["mse"]()}
    return Recipe(
        name="tail-rules", sensitivity=("fisher",), measures=measures, sparsities=SPARSITIES, budget=Budget(sparsity=0.7), **tools
    )


@lru_cache(1)
def case(name: str) -> Case:
    """Open a network and measure it."""
    module, last, calibration, tests = load_network(name)
    asked = recipe()
    start = open_task(module, asked, dc.load_target(TARGET), InputData(calibration))
    profile = dc.measure(start, asked, target=TARGET)
    able = {layer.name for layer in profile.layers if layer.has_inputs and layer.name in profile.table}
    profile = replace(profile, table={n: options for n, options in profile.table.items() if n in able})  # no embeddings
    seen = {n: o for n, o in start.observe((Weight(), InputMoment(), OutputFisher())) if n in able}
    saved = {n: o for n, o in with_run(start, last).observe((Weight(),)) if n in able} if last else {}
    names = list(start.batches[0])
    tests = tests if name == "minilm" else [dict(zip(names, part.values(), strict=True)) for part in tests]
    here = Setting(name, "zeros", start, asked, profile, None, None, seen)
    before = (outputs(start.model, tests)[0], outputs(start.model, start.batches)[0])
    return Case(here, saved, tests, before, one_minus_cosine if name == "minilm" else per_example)


# ---------------------------------------------------------------- cells
def measure_cell(one: Case) -> cells.Cell:
    """Layer -> the tail measures, its size and depth, and the relative squared error of several ways to round it."""
    profile, rows = one.here.profile, {}
    shapes = {layer.name: layer for layer in profile.layers}
    for place, (layer, observation) in enumerate(one.here.weights.items()):
        weight = observation[Weight()].detach().float()
        row = {name: found[layer].value for name, found in profile.estimates.items() if layer in found}
        for title, (quantizer, choice) in ROUNDINGS.items():
            error = weight - rounded_weight(observation, weight, choice, QUANTIZERS[quantizer]())[0]
            row[title] = float(error.double().square().sum() / weight.double().square().sum())
        rows[layer] = row | {"weights": shapes[layer].weights, "depth": place}
    return {"layers": rows}


def damage_cell(one: Case, level: str) -> cells.Cell:
    """Layer -> the divergence when it alone is compressed, and what is predicted of it."""
    rows, choice = {}, LEVELS[level]
    for layer, observation in one.here.weights.items():
        lost = next(one.lost({layer: choice}))
        weight = observation[Weight()].detach().float()
        new = one.here.changed({layer: choice})[0].weight
        row = {"truth": float(lost.mean()), "stderr": float(lost.std() / len(lost) ** 0.5)}
        row["error"] = float((weight - new).double().square().sum() / weight.double().square().sum())
        row["fisher"] = fisher_distortion(observation, weight, new)
        if layer in one.saved:
            row["accumulators"] = motion_distortion(one.saved[layer], weight, new)
        rows[layer] = row
    return {"layers": rows}


def rivals(one: Case) -> Iterator[Rival]:
    """Every allocator; rules with a constant once for each of its values."""
    yield Rival("uniform", "equal_share")
    for rule in ("lamp", "erk", "global_magnitude"):
        yield Rival(rule, rule)
    for measure in TAILS:
        if measure != "outlier_ratio":
            for epsilon in EPSILONS:
                yield Rival(f"{measure} {epsilon:g}", "alpha_pruning", (("epsilon", epsilon), ("measure", measure)))
    for width in BANDS:
        yield Rival(f"owl {width:g}", "owl", (("width", width),))
    yield Rival("weight error", distortions=bases(one.here.profile, "error"))
    yield Rival("fisher", distortions=bases(one.here.profile, "fisher"))
    if one.saved:
        yield Rival("accumulators", distortions=accumulator_distortions(one))


def accumulator_distortions(one: Case) -> dict[str, list[float]]:
    """The distortion of every option of zeros by the optimizer's state."""
    found = {}
    for layer, options in one.here.profile.table.items():
        weight = one.here.weights[layer][Weight()].detach().float()
        news = [one.here.changed({layer: option.choice})[0].weight for option in options]
        found[layer] = [motion_distortion(one.saved[layer], weight, new) for new in news]
    return found


def plan_cell(one: Case, budget: float) -> cells.Cell:
    """Allocator -> the divergence on test examples and on calibration examples."""
    rows: dict[str, dict[str, float]] = {}
    for rival in rivals(one):
        plan = planned(one.here, rival, Budget(sparsity=budget))
        hidden, seen = one.lost(plan.asked)
        rows[rival.name] = {"divergence": float(hidden.mean()), "stderr": float(hidden.std() / len(hidden) ** 0.5)}
        rows[rival.name]["seen"] = float(seen.mean())
    return {"plans": rows}


def cell_of(key: str) -> cells.Cell:
    """One cell: the measures of a network, its damage at a level, or its plans at a budget."""
    torch.set_num_threads(1)
    name, _, part = key.partition(" | ")
    one = case(name)
    if part in LEVELS:
        return damage_cell(one, part)
    return measure_cell(one) if part == "measures" else plan_cell(one, float(part.removeprefix("plans ")))


# ---------------------------------------------------------------- tables
def over_layers(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Rank correlation over layers with its 95 % interval, from resampled layers."""
    rng, n = np.random.default_rng(0), len(one)
    if not np.isfinite(one).any():
        return np.nan, np.nan, np.nan
    draws = [spearman(one[rows], other[rows]) for rows in rng.integers(0, n, (1000, n))]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return spearman(one, other), float(low), float(high)


def column(rows: Mapping[str, Mapping[str, Any]], key: str) -> np.ndarray:
    """One number of every layer; nan where there is none."""
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows.values()], float)


def line(title: str, found: Sequence[tuple[float, float, float]]) -> str:
    """A row of a table: correlations with their intervals over layers, and the mean with its interval over networks."""
    each = [f"{rho:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(rho) else "-" for rho, low, high in found]
    mean, low, high = interval([rho for rho, _, _ in found])
    whole = f"{mean:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(mean) else "-"
    return f"| {title} | {' | '.join(each)} | {whole} |"


def table_of_damage(known: Mapping[str, cells.Cell], level: str, a_weight: bool = False) -> list[str]:
    """Rank correlations of every predictor with the divergence of one layer, for every network.

    Args:
        known: the finished cells.
        level: one of `LEVELS`.
        a_weight: divide divergences and distortions by the layer's number of weights.
    """
    names = [name for name in NETS if {f"{name} | measures", f"{name} | {level}"} <= known.keys()]
    columns: dict[str, list[tuple[float, float, float]]] = {}
    for name in names:
        layers, measures = (known[f"{name} | {part}"]["layers"] for part in (level, "measures"))
        sizes = column(measures, "weights") if a_weight else 1.0
        for key in ("fisher", "accumulators", "error", *TAILS, "hill", "stable_rank", "weights", "depth"):
            values = column(measures, key) if key in next(iter(measures.values())) else column(layers, key) / sizes
            columns.setdefault(key, []).append(over_layers(values, column(layers, "truth") / sizes))
    counts = [len(known[f"{name} | measures"]["layers"]) for name in names]
    head = [f"{name}, {n} layers" for name, n in zip(names, counts, strict=True)]
    title = f"### {level}: rank correlation with the divergence of one layer{' a weight' if a_weight else ''}"
    lines = [title, "", f"| predictor | {' | '.join(head)} | mean |"]
    return [*lines, "|---" * (len(names) + 2) + "|", *(line(key, found) for key, found in columns.items()), ""]


def table_of_kurtosis(known: Mapping[str, cells.Cell]) -> list[str]:
    """Rank correlations of kurtosis with errors of rounding and with the divergence that rounding causes."""
    names = [name for name in NETS if {f"{name} | measures", f"{name} | 3 bits"} <= known.keys()]
    columns: dict[str, list[tuple[float, float, float]]] = {}
    for name in names:
        measures, layers = (known[f"{name} | {part}"]["layers"] for part in ("measures", "3 bits"))
        kurtosis, truth, error = column(measures, "kurtosis"), column(layers, "truth"), column(layers, "error")
        found = {f"relative error: {title}": column(measures, title) for title in ROUNDINGS}
        found |= {"divergence at 3 bits": truth, "divergence for a unit of relative error": truth / error}
        for title, values in found.items():
            columns.setdefault(title, []).append(over_layers(kurtosis, values))
    lines = ["### Kurtosis: rank correlation with", "", f"| | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
    return [*lines, *(line(title, found) for title, found in columns.items()), ""]


def tuned_constant(rows: Mapping[str, Mapping[str, float]], prefix: str, sign: int = 0) -> str:
    """The constant of a rule with the smallest divergence on calibration examples, of those of one sign if it isn't 0."""
    named = [name for name in rows if name.startswith(f"{prefix} ") and name.removeprefix(f"{prefix} ").lstrip("-")[0].isdigit()]
    fitting = [name for name in named if not sign or sign * float(name.split(" ")[-1]) > 0]
    return min(fitting, key=lambda name: rows[name]["seen"])


def allocators_shown(rows: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Title -> the allocator of that row, with constants tuned on calibration examples."""
    plain = ("uniform", "erk", "lamp", "global_magnitude", "weight error", "accumulators", "fisher")
    found = {name: name for name in plain if name in rows}
    for measure, sign in MADE_FOR.items():
        if measure == "outlier_ratio":
            found["owl"] = tuned_constant(rows, "owl")
            continue
        found[f"{measure}, published sign"] = tuned_constant(rows, measure, sign)
        found[f"{measure}, either sign"] = tuned_constant(rows, measure)
    return found


def table_of_plans(known: Mapping[str, cells.Cell], budget: float) -> list[str]:
    """The divergence of whole networks over that of uniform zeros, for every network, and the geometric mean."""
    names = [name for name in NETS if f"{name} | plans {budget:g}" in known]
    ratios: dict[str, list[str]] = {}
    logs: dict[str, list[float]] = {}
    for name in names:
        rows = known[f"{name} | plans {budget:g}"]["plans"]
        titles = allocators_shown(rows)
        for title in dict.fromkeys((*titles, "accumulators")):
            ratio = rows[titles[title]]["divergence"] / rows["uniform"]["divergence"] if title in titles else np.nan
            ratios.setdefault(title, []).append(f"{ratio:.2f}" if title in titles else "-")
            logs.setdefault(title, []).append(float(np.log(ratio)))
    means = {title: [float(np.exp(v)) for v in interval(found)] for title, found in logs.items()}
    lines = [f"### {budget:.0%} zeros: divergence over that of uniform zeros", "", f"| zeros by | {' | '.join(names)} | mean |"]
    for title in sorted(means, key=lambda title: np.nan_to_num(means[title][0], nan=np.inf)):
        mean, low, high = means[title]
        lines.append(f"| {title} | {' | '.join(ratios[title])} | {mean:.2f} [{low:.2f}, {high:.2f}] |")
    return [*lines[:3], "|---" * (len(names) + 2) + "|", *lines[3:], ""]


def table(known: Mapping[str, cells.Cell]) -> str:
    """All tables in Markdown."""
    lines = [part for level in LEVELS for part in table_of_damage(known, level)]
    lines += [part for level in LEVELS for part in table_of_damage(known, level, a_weight=True)] + table_of_kurtosis(known)
    return "\n".join(lines + [part for budget in BUDGETS for part in table_of_plans(known, budget)])


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    return f"{key}: {len(cell.get('layers', cell.get('plans', ())))} rows"


if __name__ == "__main__":
    cells.script(__doc__, KEYS, PATH, cell_of, told, table)
