"""Whether the subspace that late training moves in is the rank that a layer needs, beside spectra, data and optimizer states.

For each network of `benchmarks.adam_zoo` and each layer that two thinner ones can replace: the divergence on test examples when
that layer alone is truncated and moments are matched, at nine ranks, by the weight alone (`weights`) and in the metric of its
calibration inputs as the product factorises (`inputs`). The rank at which damage starts is the smallest one whose divergence is
below a limit, interpolated in logarithms. It is compared with the dimensions of the recorded end of training and with other
predictors, layer by layer; and whole networks are truncated to one number of weights by ranks that each of them chooses.

    DYNCOMPRESS_DATA=... python -m benchmarks.rank_damage [--only 'plain-norm *']     # into benchmarks/results; --table
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import cells
from benchmarks.adam_damage import SLOW, Subject, subject
from benchmarks.adam_zoo import OUT, ZOO
from benchmarks.theory import interval, spearman
from benchmarks.theory_damage import PROBED
from dyncompress.allocation import Knapsack
from dyncompress.allocation.common_level import CommonLevel
from dyncompress.errors import Infeasible
from dyncompress.measures import MEASURES
from dyncompress.measures.distances import euclidean_distances
from dyncompress.measures.divergence import per_example
from dyncompress.measures.participation_ratio import participation_ratio
from dyncompress.measures.ph_dimension import dimension_of
from dyncompress.measures.two_nn import two_nn
from dyncompress.pipeline.capabilities import factorable_layers, match_moments
from dyncompress.pipeline.observed_model import first_examples, outputs
from dyncompress.pipeline.profiling.candidates import fisher_distortion, motion_distortion
from dyncompress.pipeline.task import with_run
from dyncompress.pruning.low_rank import factor_product, factors
from dyncompress.quantization.input_prior import InputPrior
from dyncompress.recording import load_trajectory
from dyncompress.types import InputMoment, Observation, OutputFisher, SetWeight, Spectrum, Trajectory, Weight

PATH = Path(__file__).with_name("results") / "rank_damage.json"
METRICS = ("weights", "inputs")  # what a truncation keeps the error smallest of
SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0)  # of the full rank; 0 stands for rank 1
LIMITS = (0.01, 0.03)  # nats at which damage starts
GRID = tuple(k / 20 for k in range(20, 0, -1))  # shares of the full rank that a plan chooses from
BUDGETS = (0.7, 0.5)  # shares of the weights of all factorable layers
WEIGHT_MEASURES = ("stable_rank", "effective_rank", "det_rank", "soft_rank", "spectral_entropy")
SHARE_MEASURES = ("soft_rank", "spectral_entropy")  # between 0 and 1: a share of the full rank already
SCORES = ("pr of increments", "moved outputs", "moved inputs", "stable_rank", "effective_rank", "effective_width")
SUMMED = ("fisher", "accumulators")  # predicted distortions in nats, of which a plan has the smallest sum
RULES = (*SUMMED, "error", "output error", "uniform")
NETS = [name for name in ZOO if name not in ("hearer-3", "speller-3")]  # recurrent layers can't be factorised
KEYS = [f"{name} | {part}" for name in NETS for part in (*METRICS, "predictors", "plans")]


# ---------------------------------------------------------------- truncation
@dataclass(frozen=True)
class LayerTest:
    """A network with what its layers are observed with, and its test examples.

    Attributes:
        here: the network, open.
        seen: factorable layer -> its weight, the second moment of its inputs, and the Fisher information of its outputs.
        saved: the same layers with the Fisher information of each weight that the optimizer's state holds.
        parts: test examples in batches.
        before: outputs of the network on them.
    """

    here: Subject
    seen: Mapping[str, Observation]
    saved: Mapping[str, Observation]
    parts: Sequence[Mapping[str, Tensor]]
    before: np.ndarray

    def lost(self, weights: Mapping[str, Tensor]) -> np.ndarray:
        """The divergence of each test example when these layers have these weights and moments are matched."""
        start = self.here.start
        edited = start.model.edited([SetWeight(layer, weight) for layer, weight in weights.items()])
        matched = match_moments(edited, start.model, first_examples(start.batches, PROBED))[0]
        return per_example(self.before, outputs(matched, self.parts)[0])


@lru_cache(1)
def load_test(name: str) -> LayerTest:
    """Train or load a network, and observe its factorable layers."""
    here = subject(name)
    able = factorable_layers(here.start.model)
    seen = {n: o for n, o in here.start.observe((Weight(), InputMoment(), OutputFisher(), Spectrum("flat"))) if n in able}
    saved = {n: o for n, o in with_run(here.start, here.last).observe((Weight(),)) if n in able}
    x, _ = ZOO[name].data("test", 500 if name in SLOW else 1000)
    key = next(iter(here.start.batches[0]))
    parts = [{key: part} for part in x.split(250)]
    return LayerTest(here, seen, saved, parts, outputs(here.start.model, parts)[0])


def ranks_of(full: int, shares: Iterable[float]) -> tuple[int, ...]:
    """The ranks below the full one at these shares of it, descending, each once.

    Example:
        >>> ranks_of(10, (1, 0.5, 0.12, 0.0))
        (5, 1)
    """
    return tuple(sorted({max(1, round(share * full)) for share in shares} - {full}, reverse=True))


def truncations(observation: Observation, metric: str, ranks: tuple[int, ...]) -> list[Tensor]:
    """The weight at each rank, with the smallest error of the weight or of the outputs on the observed inputs."""
    weight = observation[Weight()].detach().float()
    moment = observation[InputMoment()][0] if metric == "inputs" else None
    return [factor_product(inner, outer).to(weight) for inner, outer in factors(weight, moment, ranks)]


def predictions(test: LayerTest, layer: str, new: Tensor) -> dict[str, float]:
    """The distortions that are predicted for a new weight: by data, by the optimizer's state, and its relative error."""
    weight = test.seen[layer][Weight()].detach().float()
    return {
        "fisher": fisher_distortion(test.seen[layer], weight, new),
        "accumulators": motion_distortion(test.saved[layer], weight, new),
        "error": float((weight - new).double().square().sum() / weight.double().square().sum()),
    }


def damage_cell(test: LayerTest, metric: str) -> cells.Cell:
    """Layer -> its shape, the ranks, the divergence at each of them, and what is predicted of it."""
    layers = {}
    for layer, observation in test.seen.items():
        out, fan_in = observation[Weight()].flatten(1).shape
        ranks, rows = ranks_of(min(out, fan_in), SHARES), []
        for new in truncations(observation, metric, ranks):
            lost = test.lost({layer: new})
            rows.append({"divergence": float(lost.mean()), "stderr": float(lost.std() / len(lost) ** 0.5)})
            rows[-1] |= predictions(test, layer, new)
        layers[layer] = {"out": out, "fan_in": fan_in, "ranks": list(ranks)} | {key: [r[key] for r in rows] for key in rows[0]}
    return {"layers": layers}


# ---------------------------------------------------------------- predictors
def energy_rank(powers: np.ndarray, share: float) -> int:
    """The fewest of the largest powers that hold this share of their sum.

    Example:
        >>> energy_rank(np.array([1.0, 8.0, 1.0]), 0.9)
        2
    """
    falling = np.sort(powers)[::-1].clip(min=0)
    return int(np.searchsorted(np.cumsum(falling), share * falling.sum() * (1 - 1e-12)) + 1)


def breadth(gram: np.ndarray) -> float:
    """The participation ratio of the eigenvalues of a symmetric matrix.

    Example:
        >>> breadth(np.diag([2.0, 2.0, 0.0]))
        2.0
    """
    return float(np.trace(gram) ** 2 / max(np.square(gram).sum(), 1e-300))


def movement_predictors(run: Trajectory, layer: str, late: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Dimensions of the late iterates and increments of a layer; and of the outputs and inputs between which it moves.

    Args:
        run: the recorded trajectory.
        layer: in it.
        late: states of the module at equal distances late in training.
    """
    points = run.sketches[layer].astype(np.float64)
    found = {
        "pr of iterates": participation_ratio(points).value,
        "pr of increments": participation_ratio(np.diff(points, axis=0)).value,
    }
    for title, each in (("iterates", points), ("increments", np.diff(points, axis=0))):
        distances = euclidean_distances(each)
        found |= {f"two_nn of {title}": two_nn(distances).value, f"ph of {title}": dimension_of(distances).value}
    if layer in run.gradient_sums:
        sums = run.gradient_sums[layer].astype(np.float64)
        found["pr of gradients"] = participation_ratio(sums[np.isfinite(sums).all(1)]).value
    weights = torch.stack([state[f"{layer}.weight"].double().flatten(1) for state in late])
    steps = (weights[1:] - weights[:-1]).numpy()
    found["moved outputs"] = breadth(np.einsum("tik,tjk->ij", steps, steps, optimize=True))
    found["moved inputs"] = breadth(np.einsum("tki,tkj->ij", steps, steps, optimize=True))
    return found


def layer_predictors(test: LayerTest, layer: str) -> dict[str, float]:
    """What the weight, its calibration inputs and the optimizer's state say of a layer's rank; shares are multiplied by it."""
    observation = test.seen[layer]
    weight = observation[Weight()].detach().double()
    flat, full = weight.flatten(1), min(weight.flatten(1).shape)
    found = {name: MEASURES[name]()(observation).value for name in (*WEIGHT_MEASURES, "effective_width")}
    found |= {name: found[name] * full for name in SHARE_MEASURES}
    rows, columns = InputPrior().split(weight, test.saved[layer])
    told = flat * rows.sqrt()[:, None] * columns[0].sqrt()
    powers = {
        "energy": torch.linalg.svdvals(flat).square().numpy(),
        "output energy": torch.linalg.eigvalsh(flat @ observation[InputMoment()][0].double() @ flat.T).numpy(),
        "accumulators' energy": torch.linalg.svdvals(told).square().numpy(),
    }
    found |= {f"{title} {share:.0%}": energy_rank(each, share) for title, each in powers.items() for share in (0.9, 0.99)}
    return found | {"full rank": full, "weights": flat.numel()}


def predictor_cell(test: LayerTest) -> cells.Cell:
    """Layer -> predictor -> a number of directions."""
    name = test.here.name
    run, files = load_trajectory(OUT / f"{name}.npz"), sorted((OUT / f"{name}-late").glob("step_*.pt"))
    late = [torch.load(file)["model"] for file in files]
    rows = {layer: movement_predictors(run, layer, late) | layer_predictors(test, layer) for layer in test.seen}
    return {"layers": {layer: row | {"depth": place + 1} for place, (layer, row) in enumerate(rows.items())}}


# ---------------------------------------------------------------- plans
def plan_cell(test: LayerTest) -> cells.Cell:
    """Budget -> allocator -> the divergence of the network whose factorable layers it truncated, all in the inputs' metric.

    The last layer keeps its rank: its few outputs need it, whatever a rule says.
    """
    layers = list(test.seen)
    news: dict[str, list[Tensor]] = {}
    cost = np.full((1, len(layers), len(GRID) + 1), np.inf)
    tables = {key: np.full(cost.shape[1:], np.inf) for key in (*RULES, *SCORES)}
    known = cells.read(PATH)[f"{test.here.name} | predictors"]["layers"]
    for place, layer in enumerate(layers):
        observation = test.seen[layer]
        weight = observation[Weight()].detach().float()
        out, fan_in = weight.flatten(1).shape
        full, moment = min(out, fan_in), observation[InputMoment()][0].double()
        thin = tuple(r for r in ranks_of(full, GRID) if r * (out + fan_in) < out * fan_in and layer != layers[-1])
        news[layer] = [weight, *truncations(observation, "inputs", thin)]
        power = float(((weight.flatten(1).double() @ moment) * weight.flatten(1).double()).sum())
        for column, (rank, new) in enumerate(zip((0, *thin), news[layer], strict=True)):
            cost[0, place, column] = rank * (out + fan_in) or out * fan_in
            apart = (weight - new).flatten(1).double()
            row = predictions(test, layer, new) if rank else {"fisher": 0.0, "accumulators": 0.0, "error": 0.0}
            row["output error"] = float(((apart @ moment) * apart).sum()) / power
            row |= {key: known[layer][key] / rank if rank else 0.0 for key in SCORES}
            row["uniform"] = full / rank if rank else 0.0
            for key, value in row.items():
                tables[key][place, column] = value
    tables |= dict(with_floors(tables))
    found: dict[str, dict[str, float]] = {}
    for budget in BUDGETS:
        limit = np.array([budget * cost[0, :, 0].sum()])
        for key, table in tables.items():
            solver = Knapsack() if key.startswith(SUMMED) else CommonLevel()
            try:
                choice = solver(cost, table, limit)[0].tolist()
            except Infeasible:  # the ranks that are kept take more
                continue
            lost = test.lost({layer: news[layer][place] for layer, place in zip(layers, choice, strict=True) if place})
            found.setdefault(str(budget), {})[key] = float(lost.mean())
    return {"plans": found}


def with_floors(tables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The tables of summed distortions without the lowest ranks: below a quarter of the full rank, or below another dimension.

    Args:
        tables: allocator -> `[layers, ranks]`; for `uniform` and `SCORES`, the number of directions over the rank.
    """
    for key in SUMMED:
        yield f"{key}, a quarter of the full rank kept", np.where(tables["uniform"] > 4, np.inf, tables[key])
        yield f"{key}, half of the moved outputs kept", np.where(tables["moved outputs"] > 2, np.inf, tables[key])
        yield f"{key}, the stable rank kept", np.where(tables["stable_rank"] > 1, np.inf, tables[key])


# ---------------------------------------------------------------- table
def first_rank(full: int, ranks: Sequence[int], values: Sequence[float], limit: float) -> float:
    """The rank at which a curve of divergences first reaches the limit, from the full rank down; 1 if it never does.

    Between two ranks both logarithms are interpolated; a divergence below a hundredth of the limit counts as that.

    Example:
        >>> round(first_rank(16, [8, 4], [0.001, 0.1], 0.01), 3)
        5.657
    """
    above, last = (full, limit / 100), len(ranks) - 1
    for place, (rank, value) in enumerate(zip(ranks, values, strict=True)):
        if value >= limit:
            share = np.log(limit / above[1]) / np.log(value / above[1])
            return float(above[0] * (rank / above[0]) ** share)
        above = (rank, max(value, limit / 100))
        if place == last:
            break
    return float(ranks[last])


def start_ranks(cell: cells.Cell, limit: float, key: str = "divergence") -> np.ndarray:
    """The rank at which damage starts in each layer of a network, measured or predicted by `key`."""
    rows = cell["layers"].values()
    return np.array([first_rank(min(row["out"], row["fan_in"]), row["ranks"], row[key], limit) for row in rows])


@dataclass(frozen=True)
class Compared:
    """One predictor on one network: rank correlations with the rank and its share, and the spread of their ratio."""

    rank: float
    share: float
    spread: float


def comparisons(known: Mapping[str, cells.Cell], name: str, metric: str, limit: float) -> Iterator[tuple[str, Compared]]:
    """Every predictor on one network."""
    cell, rows = known[f"{name} | {metric}"], known[f"{name} | predictors"]["layers"]
    truth = start_ranks(cell, limit)
    full = np.array([row["full rank"] for row in rows.values()], float)
    columns = {
        key: np.array([row.get(key) or np.nan for row in rows.values()], float)
        for key in next(iter(rows.values()))
        if key != "full rank"
    }
    columns |= {"a constant rank": np.ones(len(full)), "a constant share": full}
    columns |= {f"rank that {key} predicts": start_ranks(cell, limit, key) for key in ("fisher", "accumulators")}
    for key, values in columns.items():
        whole = key in ("weights", "depth")
        ratio = np.log(truth / values)[np.isfinite(values)]
        share = spearman(values if whole else values / full, truth / full)
        yield key, Compared(spearman(values, truth), share, float(np.exp(ratio.std())) if len(ratio) > 3 else np.nan)


def networks(known: Mapping[str, cells.Cell], *parts: str) -> list[str]:
    """The networks that have all of these cells."""
    return [name for name in NETS if all(f"{name} | {part}" in known for part in parts)]


def mean_text(values: Sequence[float]) -> str:
    """A mean over networks with its interval."""
    mean, low, high = interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(mean) else "-"


def table_of_ranks(known: Mapping[str, cells.Cell], metric: str, limit: float) -> list[str]:
    """The lines of the table of one metric and limit, the best predictors of the share first."""
    names, columns = networks(known, metric, "predictors"), {}
    for name in names:
        for key, found in comparisons(known, name, metric, limit):
            columns.setdefault(key, []).append(found)
    shares = [start_ranks(known[f"{name} | {metric}"], limit) for name in names]
    order = sorted(columns, key=lambda key: -np.nan_to_num(interval([c.share for c in columns[key]])[0], nan=-1))
    layers = sum(len(each) for each in shares)
    lines = [f"### {metric}, {limit} nats: {layers} layers of {len(names)} networks", ""]
    lines += ["| predictor | its share of the full rank | the rank | spread of the ratio, a factor of |", "|---|---|---|---|"]
    for key in order:
        each = columns[key]
        lines.append(
            f"| {key} | " + " | ".join(mean_text([getattr(c, f) for c in each]) for f in ("share", "rank", "spread")) + " |"
        )
    return [*lines, ""]


def table_of_plans(known: Mapping[str, cells.Cell]) -> list[str]:
    """The lines of the table of plans: divergence over that of equal shares, geometric means over networks."""
    names = networks(known, "plans")
    lines = [
        f"### plans of {len(names)} networks",
        "",
        "| ranks by | " + " | ".join(f"{b:.0%} of the weights" for b in BUDGETS) + " |",
    ]
    lines.append("|---" * (len(BUDGETS) + 1) + "|")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for budget in map(str, BUDGETS):
        found = [known[f"{name} | plans"]["plans"][budget] for name in names]
        for key in dict.fromkeys(key for one in found for key in one):
            ratios = [float(np.log(one[key] / one["uniform"])) for one in found if key in one]
            mean, low, high = (float(np.exp(v)) for v in interval(ratios))
            rows.setdefault(key, []).append((mean, low, high))
    order = sorted(rows, key=lambda key: rows[key][0][0])
    lines += [f"| {key} | " + " | ".join(f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in rows[key]) + " |" for key in order]
    return [*lines, ""]


def table(known: Mapping[str, cells.Cell]) -> str:
    """All tables in Markdown."""
    lines = [line for metric in METRICS for limit in LIMITS for line in table_of_ranks(known, metric, limit)]
    return "\n".join(lines + table_of_plans(known))


def cell_of(key: str) -> cells.Cell:
    """One cell: a network's damage in one metric, its predictors, or its plans."""
    torch.set_num_threads(1)
    name, _, part = key.partition(" | ")
    test = load_test(name)
    return damage_cell(test, part) if part in METRICS else {"predictors": predictor_cell, "plans": plan_cell}[part](test)


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    return f"{key}: {len(cell['layers'])} layers" if "layers" in cell else f"{key}: {json.dumps(cell['plans'])}"


if __name__ == "__main__":
    cells.script(__doc__, KEYS, PATH, cell_of, told, table)
