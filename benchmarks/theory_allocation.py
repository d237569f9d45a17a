"""The plans of every allocator for every network of the zoo, all carried out alike, and their divergence on test examples.

A prior is learned on the other networks alone, never on the network that it allocates for. No prior is learned from the two
pretrained networks. Tuned rules take the constant that was best on the calibration examples of the other networks.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_allocation [--only NAME ...]     # needs theory_damage's files
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import dyncompress as dc
from benchmarks.theory_damage import BOLD, OUT, PROBED, Setting, asked, known, level, scores, setting
from benchmarks.theory_zoo import ZOO
from dyncompress.allocation import RULES, Evidence, Knapsack, Prior, learn_prior, posterior
from dyncompress.allocation.distortion import shapes, z_scores
from dyncompress.errors import DyncompressError
from dyncompress.measures.divergence import per_example
from dyncompress.pipeline.observed_model import first_examples, outputs
from dyncompress.pipeline.profiling.probes import LEAST, correct_predictions
from dyncompress.types import Budget, Estimate, Layer, Plan, Profile

DATA_FREE = (
    "hill",
    "block_sum",
    "esd_mid",
    "farms",
    "stable_rank",
    "kurtosis",
    "depth",
    "log_fan_in",
)  # chosen before anything was measured
RECORDED = (*DATA_FREE, "fluctuation_scale")  # with recorded training; the last one has no value elsewhere
INFORMED = (*RECORDED, "effective_width")
BUDGETS = {"zeros": (0.6, 0.7, 0.8), "bits": (3,)}
SHARES = (0.0, 0.25, 0.5, 1.0)  # shares of the layers that are probed, the largest first
TESTS = 1000  # test examples; a network with fewer is evaluated on all of them


def networks_to_learn_from(name: str, action: str) -> list[dict[str, Any]]:
    """The results of all networks that a prior for `name` is learned from: neither the network itself nor the pretrained pair."""
    return [found for found in known(action) if ZOO[found["network"]].epochs and found["network"] != name]


# ---------------------------------------------------------------- priors
def evidence(found: Mapping[str, Any], features: Sequence[str], base: str, shuffled: int | None = None) -> Evidence:
    """The evidence from the probes of one network: the logarithm of divergence over error at the level `BOLD`.

    Args:
        found: the results of `theory_damage` for the network.
        features: names of the scores.
        base: `error`, the relative squared error of the weight, or `fisher`.
        shuffled: a seed with which measures are permuted between layers; None leaves them in place.
    """
    bold, rows, noise, names = BOLD[found["action"]], [], [], []
    for layer in found["layers"]:
        option = next((o for o in layer["options"] if o["level"] == bold), None)
        if option is None or option[base] <= 0:
            continue
        divergence = max(option["probe"], LEAST)
        rows.append(np.log(divergence / option[base]))
        noise.append((option["probe_stderr"] / divergence) ** 2)
        names.append(layer["layer"])
    table = features_of(found, features, shuffled)
    where = [i for i, layer in enumerate(found["layers"]) if layer["layer"] in names]
    return Evidence(found["network"], table[where], np.array(rows), np.array(noise))


def features_of(found: Mapping[str, Any], features: Sequence[str], shuffled: int | None = None) -> np.ndarray:
    """The standardised measures `[L, d]` of the layers of one network."""
    layers = [Layer(one["layer"], "", (one["weights"] // one["fan_in"], one["fan_in"]), one["macs"]) for one in found["layers"]]
    values: dict[str, Mapping[str, Estimate]] = dict(shapes(layers))
    for one in found["layers"]:
        for measure, e in one["estimates"].items():
            values.setdefault(measure, {})
            values[measure] = {**values[measure], one["layer"]: Estimate(e["value"], e["stderr"], 1, valid=e["valid"])}
    table = z_scores(values, [layer.name for layer in layers], features)
    if shuffled is not None:
        rows = np.random.default_rng([shuffled, len(table)]).permutation(len(table))
        table = table[rows]
    return table


def prior_without(name: str, action: str, features: Sequence[str], base: str, shuffled: int | None = None) -> Prior:
    """The prior that is learned on the other networks."""
    return learn_prior(
        [evidence(found, features, base, shuffled) for found in networks_to_learn_from(name, action)], tuple(features)
    )


# ---------------------------------------------------------------- distortions
def bases(profile: Profile, base: str) -> dict[str, list[float]]:
    """The distortion of every option before it is scaled: predicted from Fisher information, or the error of the weight."""
    if base == "fisher":
        return {layer: [o.distortion for o in options] for layer, options in profile.table.items()}
    return {layer: [o.change.error if o.change else 0.0 for o in options] for layer, options in profile.table.items()}


def scaled(table: Mapping[str, Sequence[float]], log: Iterable[float]) -> dict[str, list[float]]:
    """The distortions times exp(log sensitivity)."""
    return {layer: [float(np.exp(s)) * d for d in row] for (layer, row), s in zip(table.items(), log, strict=True)}


def fully_probed(found: Mapping[str, Any], table: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The distortions, corrected by the probe at every level that was probed."""
    out = {}
    for layer in found["layers"]:
        measured = {i: max(o["probe"], LEAST) for i, o in enumerate(layer["options"]) if "probe" in o}
        out[layer["layer"]] = correct_predictions(table[layer["layer"]], measured)
    return out


def sensitivities(
    name: str, found: Mapping[str, Any], features: Sequence[str], base: str, share: float, shuffled: int | None = None
) -> np.ndarray:
    """Posterior log sensitivities after the largest `share` of the layers was probed at the level `BOLD`."""
    prior = prior_without(name, found["action"], features, base, shuffled)
    order = np.argsort([-layer["weights"] for layer in found["layers"]], kind="stable")
    probed = {}
    for i in order[: round(share * len(order))].tolist():
        option = next((o for o in found["layers"][i]["options"] if o["level"] == BOLD[found["action"]]), None)
        if option is not None and option[base] > 0:
            divergence = max(option["probe"], LEAST)
            probed[i] = (float(np.log(divergence / option[base])), (option["probe_stderr"] / divergence) ** 2)
    return posterior(prior, features_of(found, features, shuffled), probed).log


@dataclass(frozen=True)
class Rival:
    """One allocator: a rule of `RULES` with its fields, or distortions for the knapsack."""

    name: str
    rule: str = ""
    fields: tuple[tuple[str, Any], ...] = ()
    distortions: Mapping[str, Sequence[float]] | None = None


def rules(action: str) -> Iterator[Rival]:
    """The null models; those that are tuned with several constants."""
    yield Rival("uniform", "equal_share")
    yield Rival("equal error", "equal_error")
    for epsilon in (-0.2, 0.1, 0.2, 0.3):
        yield Rival(f"alpha_pruning {epsilon:g}", "alpha_pruning", (("epsilon", epsilon),))
        yield Rival(f"farms {epsilon:g}", "alpha_pruning", (("epsilon", epsilon), ("measure", "farms")))
        yield Rival(f"depth_linear {epsilon:g}", "depth_linear", (("rise", epsilon),))
    for seed in range(3):
        yield Rival(f"random {seed}", "random_share", (("seed", seed),))
    yield Rival("hawq", "hawq")
    if action == "zeros":
        for rule in ("global_magnitude", "lamp", "erk", "owl"):
            yield Rival(rule, rule)


def ours(here: Setting, found: Mapping[str, Any]) -> Iterator[Rival]:
    """Distortions from theory, from few probes with three priors, from data, and from everything."""
    name, error, fisher = here.name, bases(here.profile, "error"), bases(here.profile, "fisher")
    yield Rival("weight error", distortions=error)
    for share in SHARES:
        for title, features in (("theory", RECORDED), ("no measures", ()), ("theory without a record", DATA_FREE)):
            log = sensitivities(name, found, features, "error", share)
            yield Rival(f"{title}, {share:g} probes", distortions=scaled(error, log))
        for seed in range(3):
            log = sensitivities(name, found, RECORDED, "error", share, seed)
            yield Rival(f"shuffled {seed}, {share:g} probes", distortions=scaled(error, log))
    if here.motion:
        yield Rival("increments", distortions=here.motion)
    yield Rival("fisher", distortions=fisher)
    yield Rival("fisher + theory", distortions=scaled(fisher, sensitivities(name, found, INFORMED, "fisher", 0.0)))
    for share in SHARES[1:]:
        for title, features in (("fisher + theory", INFORMED), ("fisher", ())):
            log = sensitivities(name, found, features, "fisher", share)
            yield Rival(f"{title}, {share:g} probes", distortions=scaled(fisher, log))
    yield Rival("fully probed", distortions=fully_probed(found, error))
    yield Rival("fully probed, fisher between", distortions=fully_probed(found, fisher))


def planned(here: Setting, rival: Rival, budget: Budget) -> Plan:
    """The plan of an allocator."""
    profile, allocator = here.profile, RULES[rival.rule](**dict(rival.fields)) if rival.rule else Knapsack()
    if rival.distortions is not None:
        table = {
            layer: tuple(replace(o, distortion=h) for o, h in zip(options, rival.distortions[layer], strict=True))
            for layer, options in profile.table.items()
        }
        profile = replace(profile, table=table)
    return dc.allocate(profile, budget, recipe=replace(here.recipe, allocator=allocator))


def budget_of(here: Setting, size: float) -> Budget:
    """A budget of that share of zeros, or of the bytes of a file with that width everywhere."""
    if here.action == "zeros":
        return Budget(sparsity=size)
    parts = (next(o.bytes for o in options if level(o.choice) <= size) for options in here.profile.table.values())
    return Budget(bytes=float(here.profile.fixed_bytes + sum(parts)))


# ---------------------------------------------------------------- one network
def compared(name: str, action: str, tests: int, known_rivals: Collection[str]) -> Iterator[dict[str, Any]]:
    """A row for every budget and every allocator that has no row yet."""
    here = setting(name, action, tests)
    found = next(one for one in known(action) if one["network"] == name)
    few, y = first_examples(here.start.batches, PROBED), np.asarray(here.y)
    before, truth = outputs(here.start.model, few)[0], scores(here, here.start.model)
    done: dict[str, dict[str, Any]] = {}
    for rival in (one for one in (*rules(action), *ours(here, found)) if one.name not in known_rivals):
        for size in BUDGETS[action]:
            try:
                plan = planned(here, rival, budget_of(here, size))
            except DyncompressError as error:
                yield {"network": name, "action": action, "budget": size, "rival": rival.name, "refused": str(error)}
                continue
            key = str(plan.asked)
            if key not in done:
                edited = here.realised(plan.asked)
                after = scores(here, edited)
                right = after.argmax(1) == y
                hidden = per_example(truth, after)
                done[key] = {
                    "seen": float(per_example(before, outputs(edited, few)[0]).mean()),
                    "divergence": float(hidden.mean()),
                    "stderr": float(hidden.std() / len(hidden) ** 0.5),
                    "accuracy": float(right.mean()),
                    "tests": len(right),
                    "right": np.packbits(right).tobytes().hex(),
                }
            yield {"network": name, "action": action, "budget": size, "rival": rival.name} | done[key]


def main() -> None:
    """Compute the rows that are missing."""
    for name, action in asked(__doc__):
        file, clock = OUT / f"{name}_{action}_plans.json", time.process_time()
        before = json.loads(file.read_text()) if file.is_file() else []
        rows = list(compared(name, action, TESTS, {row["rival"] for row in before}))
        file.write_text(json.dumps(before + rows) + "\n")
        print(f"{name}, {action}: {len(rows)} plans, {time.process_time() - clock:.0f} s", flush=True)


if __name__ == "__main__":
    main()
