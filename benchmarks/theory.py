"""Predictions of theory against the measured effect of compression: the tables of docs/theory/earning_its_place.md.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_zoo          # trains the networks, about 40 minutes on one core
    DYNCOMPRESS_DATA=... python -m benchmarks.theory_damage       # compresses every layer alone
    DYNCOMPRESS_DATA=... python -m benchmarks.theory_allocation   # the plans of every allocator
    python -m benchmarks.theory [--prior]                         # results/theory.json, the tables; --prior: the shipped prior

Intervals are 95 %, from 2 000 resamples of networks (and of the layers of each network, where ranks are compared). They describe
what another set of such networks might show; a dozen networks are few.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.theory_allocation import (
    BUDGETS,
    DATA_FREE,
    INFORMED,
    RECORDED,
    SHARES,
    evidence,
    features_of,
    networks_to_learn_from,
    prior_without,
)
from benchmarks.theory_damage import BOLD, LEVELS, known
from benchmarks.theory_zoo import OUT, ZOO
from dyncompress.allocation import learn_prior, posterior, prior_to_table

ROOT = Path(__file__).resolve().parent.parent
RESULT, PAGE = ROOT / "benchmarks" / "results" / "theory.json", ROOT / "docs" / "theory" / "earning_its_place.md"
BEGIN, END = "<!-- tables -->\n", "<!-- /tables -->"
RESAMPLES = 2000
OURS = ("theory", "no measures", "shuffled", "fisher", "increments", "fully", "weight error")
TUNED = ("alpha_pruning", "farms", "depth_linear")


# ---------------------------------------------------------------- statistics
def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of the finite pairs; nan if there are fewer than four."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 4 or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one[both]), rankdata(other[both]))[0, 1])


def interval(values: Sequence[float], statistic: Callable[[np.ndarray], Any] = np.mean) -> tuple[float, float, float]:
    """The mean over networks and its 95 % interval, from resampled networks."""
    found = np.array([v for v in values if np.isfinite(v)])
    if not len(found):
        return float("nan"), float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile([statistic(found[d]) for d in draws], [0.025, 0.975])
    return float(statistic(found)), float(low), float(high)


def resampled(columns: Sequence[Sequence[np.ndarray]], truths: Sequence[np.ndarray]) -> list[tuple[float, float, float]]:
    """The mean rank correlation of each column with the truth, and the differences from the first column, with intervals.

    Networks and layers are resampled.

    Args:
        columns: predictors, each with one array for each network.
        truths: one array for each network.

    Returns:
        For every column (mean, low, high), then for every column but the first the difference from the first.
    """
    rng = np.random.default_rng(0)

    def means(nets: Sequence[int], rows: Sequence[np.ndarray]) -> np.ndarray:
        """The mean over networks, one number for each column."""
        table = [[spearman(column[n][r], truths[n][r]) for column in columns] for n, r in zip(nets, rows, strict=True)]
        return np.nanmean(np.array(table), axis=0)

    every = range(len(truths))
    found = means(every, [np.arange(len(truths[n])) for n in every])
    draws = []
    for _ in range(RESAMPLES // 4):
        nets = rng.integers(0, len(truths), len(truths)).tolist()
        draws.append(means(nets, [rng.integers(0, len(truths[n]), len(truths[n])) for n in nets]))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    apart = np.array(draws)[:, 1:] - np.array(draws)[:, :1]
    below, above = np.quantile(apart, [0.025, 0.975], axis=0) if apart.size else (np.zeros(0), np.zeros(0))
    own = [(float(m), float(a), float(b)) for m, a, b in zip(found, low, high, strict=True)]
    return own + [(float(m - found[0]), float(a), float(b)) for m, a, b in zip(found[1:], below, above, strict=True)]


# ---------------------------------------------------------------- a: measures against divergence
def at_level(found: Mapping[str, Any], level: float, key: str) -> np.ndarray:
    """One number for each layer, of its option at this level; nan where the layer has none."""
    return np.array(
        [next((o[key] for o in layer["options"] if o["level"] == level and key in o), np.nan) for layer in found["layers"]]
    )


def correlations(action: str) -> list[dict[str, Any]]:
    """Rank correlations of every measure and every other predictor with the divergence on test examples."""
    nets, rows = list(known(action)), []
    for level in LEVELS[action]:
        truths = [at_level(found, level, "truth") for found in nets]
        measures = dict.fromkeys(name for found in nets for layer in found["layers"] for name in layer["estimates"])
        predictors = {key: [at_level(found, level, key) for found in nets] for key in ("error", "fisher", "increments", "probe")}
        predictors["weights"] = [np.array([layer["weights"] for layer in found["layers"]], float) for found in nets]
        predictors["depth"] = [np.arange(len(found["layers"]), dtype=float) for found in nets]
        for name in measures:
            predictors[name] = [
                np.array([layer["estimates"].get(name, {}).get("value") or np.nan for layer in found["layers"]], float)
                for found in nets
            ]
        for name, columns in predictors.items():
            each = [spearman(column, truth) for column, truth in zip(columns, truths, strict=True)]
            mean, low, high = interval(each)
            where = {found["network"]: round(rho, 2) for found, rho in zip(nets, each, strict=True) if np.isfinite(rho)}
            rows.append({"level": level, "predictor": name, "rho": mean, "low": low, "high": high, "networks": where})
    return rows


# ---------------------------------------------------------------- e2: Fisher and measures together
def joined(action: str) -> dict[str, Any]:
    """Rank correlations of Fisher information, of the measures and of both with the divergence; priors from other networks."""
    nets, level = list(known(action)), BOLD[action]
    truths, columns = [at_level(found, level, "truth") for found in nets], {"fisher": [], "measures": [], "fisher + measures": []}
    columns |= {"measures without a record": [], "fisher + stable_rank": [], "fisher + farms": [], "fisher + hill": []}
    for found in nets:
        fisher, error = (np.log(np.maximum(at_level(found, level, key), 1e-12)) for key in ("fisher", "error"))
        columns["fisher"].append(fisher)
        for title, features, base, start in (
            ("measures", RECORDED, "error", error),
            ("measures without a record", DATA_FREE, "error", error),
            ("fisher + measures", INFORMED, "fisher", fisher),
            ("fisher + stable_rank", ("stable_rank",), "fisher", fisher),
            ("fisher + farms", ("farms",), "fisher", fisher),
            ("fisher + hill", ("hill",), "fisher", fisher),
        ):
            prior = prior_without(found["network"], action, features, base)
            columns[title].append(start + posterior(prior, features_of(found, features), {}).log)
    names, both = list(columns), resampled(list(columns.values()), truths)
    each = {n: {f["network"]: round(spearman(c, t), 3) for f, c, t in zip(nets, columns[n], truths, strict=True)} for n in names}
    families = dict.fromkeys(found["family"] for found in nets)
    return {
        "rho": dict(zip(names, both[: len(names)], strict=True)),
        "beyond_fisher": dict(zip(names[1:], both[len(names) :], strict=True)),
        "networks": each,
        "families": {family: sum(found["family"] == family for found in nets) for family in families},
    }


def recorded(action: str) -> list[dict[str, Any]]:
    """For the recorded networks: increments, which need no data, against Fisher information."""
    nets = [found for found in known(action) if "increments" in found["layers"][0]["options"][0]]
    rows = []
    for level in LEVELS[action]:
        columns = [[at_level(found, level, key) for found in nets] for key in ("fisher", "increments")]
        fisher, increments, apart = resampled(columns, [at_level(found, level, "truth") for found in nets])
        rows.append({"level": level, "fisher": fisher, "increments": increments, "apart": apart, "networks": len(nets)})
    return rows


# ---------------------------------------------------------------- b, c, d, f: allocators
def plans(action: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each network."""
    files = {name: OUT / f"{name}_{action}_plans.json" for name in ZOO}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def tuned(found: Mapping[str, list[dict[str, Any]]], budget: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Network -> allocator -> row. A tuned rule takes the constant that is best on the other networks' calibration examples."""
    rows = {name: {row["rival"]: row for row in found[name] if row["budget"] == budget and "seen" in row} for name in found}
    for rule in TUNED:
        for name in rows:
            others = [rows[other] for other in rows if other != name]
            tried = [rival for rival in rows[name] if rival.startswith(rule + " ")]
            if tried:
                # mean log divergence, so that a single hard network does not decide
                cost = {t: np.mean([np.log(max(other[t]["seen"], 1e-9)) for other in others if t in other]) for t in tried}
                rows[name][f"{rule}, tuned"] = rows[name][min(cost, key=lambda t: float(cost[t]))]
    return rows


def merged(row: Mapping[str, Mapping[str, Any]], rival: str) -> tuple[float, float]:
    """Divergence (geometric mean over seeds) and accuracy of an allocator; seeds are numbered after its name."""
    head, _, tail = rival.partition(",")
    names = [n for n in row if n == rival or (n.startswith(head + " ") and n.endswith(tail) and n[len(head) + 1 :][:1].isdigit())]
    if rival in row:
        names = [rival]
    if not names:
        return float("nan"), float("nan")
    logs = [np.log(max(row[n]["divergence"], 1e-9)) for n in names]
    return float(np.exp(np.mean(logs))), float(np.mean([row[n]["accuracy"] for n in names]))


def rivals(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the allocators in the order of the tables; seeds and tuned constants are merged."""
    found = dict.fromkeys(name for row in rows.values() for name in row)
    plain = [n for n in found if not n.startswith(("random ", "shuffled ")) and not n.startswith(tuple(f"{t} " for t in TUNED))]
    return [*plain, "random", *(f"shuffled, {share:g} probes" for share in SHARES)]


def allocations(action: str) -> list[dict[str, Any]]:
    """The ratio of divergences and the difference of accuracies of every allocator to the uniform one."""
    table = []
    for budget in BUDGETS[action]:
        rows = tuned(plans(action), budget)
        for rival in rivals(rows):
            ratio, gain = [], []
            for row in rows.values():
                (own, right), (base, base_right) = merged(row, rival), merged(row, "uniform")
                ratio.append(np.log(own / base))
                gain.append(100 * (right - base_right))
            mean, low, high = (float(np.exp(v)) for v in interval(ratio))
            best = {name: round(float(np.exp(r)), 3) for name, r in zip(rows, ratio, strict=True) if np.isfinite(r)}
            table.append(
                {"budget": budget, "rival": rival, "ratio": mean, "low": low, "high": high, "gain": interval(gain)}
                | {"networks": best}
            )
    return table


def against(action: str, own: str, others: Sequence[str]) -> list[dict[str, Any]]:
    """The ratio of divergences of one allocator to each of `others`, mean over networks and budgets."""
    table = []
    read = [tuned(plans(action), budget) for budget in BUDGETS[action]]
    for other in others:
        logs = []
        for name in read[0]:
            found = [np.log(merged(rows[name], own)[0] / merged(rows[name], other)[0]) for rows in read]
            logs.append(float(np.nanmean(found)) if np.isfinite(found).any() else float("nan"))
        mean, low, high = (float(np.exp(v)) for v in interval(logs))
        wins = int(np.sum(np.array(logs) < 0))
        table.append({"own": own, "other": other, "ratio": mean, "low": low, "high": high, "wins": wins, "of": len(logs)})
    return table


def closed(action: str) -> list[dict[str, Any]]:
    """The share of the gap between data-free theory and full probing that few probes close, in log divergence."""
    table, read = [], [tuned(plans(action), budget) for budget in BUDGETS[action]]
    for prior in ("theory", "theory without a record", "no measures", "shuffled"):
        for share in SHARES:
            gaps, done = [], []
            for name in read[0]:
                start, now, end = [], [], []
                for row in (rows[name] for rows in read):
                    start.append(np.log(merged(row, "theory, 0 probes")[0]))
                    now.append(np.log(merged(row, f"{prior}, {share:g} probes")[0]))
                    end.append(np.log(merged(row, "fully probed")[0]))
                gaps.append(float(np.mean(start) - np.mean(end)))
                done.append(float(np.mean(start) - np.mean(now)))
            pairs = np.stack([np.array(done), np.array(gaps)], axis=1)
            draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
            shares = [pairs[d, 0].mean() / pairs[d, 1].mean() for d in draws]
            low, high = np.quantile(shares, [0.025, 0.975])
            table.append(
                {"prior": prior, "probed": share, "closed": float(pairs[:, 0].mean() / pairs[:, 1].mean())}
                | {"low": float(low), "high": float(high), "gap": float(np.exp(-pairs[:, 1].mean()))}
            )
    return table


def right_of(row: Mapping[str, Any]) -> np.ndarray:
    """1 for each correct answer, `[n]`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[: row["tests"]].astype(float)


def informed(action: str, own: str) -> list[dict[str, Any]]:
    """For every network and budget: the fully informed allocator against the best null model, paired over test examples."""
    table, nulls = [], None
    for budget in BUDGETS[action]:
        for name, row in tuned(plans(action), budget).items():
            nulls = [n for n in row if not n.startswith(OURS)]
            best = min(nulls, key=lambda n: row[n]["divergence"])
            apart = 100 * (right_of(row[own]) - right_of(row[best]))
            table.append(
                {"network": name, "budget": budget, "best_null": best, "divergence": row[own]["divergence"]}
                | {"null_divergence": row[best]["divergence"], "gain": float(apart.mean())}
                | {"half": float(1.96 * apart.std() / len(apart) ** 0.5)}
            )
    return table


# ---------------------------------------------------------------- writing
def shown(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value with its interval, such as `0.63 [0.41, 0.80]`."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def weakness(row: Mapping[str, Any]) -> float:
    """A sort key: smaller for stronger correlations of either sign."""
    return -abs(row["rho"]) if np.isfinite(row["rho"]) else 0.0


def pivoted(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    column: str,
    value: str,
    columns: Sequence[float],
    at: float,
    order: Callable[[Mapping[str, Any]], float],
) -> Iterator[str]:
    """A table with a row for each `name` and a column for each of `columns`; `order` sorts the rows by their cell at `at`."""
    by: dict[str, dict[float, Mapping[str, Any]]] = {}
    for row in rows:
        by.setdefault(row[name], {})[row[column]] = row
    heads = [f"{100 * v:.0f} % zeros" if v < 1 else f"{v} bits" for v in columns]
    yield f"| {'allocator' if name == 'rival' else name} | " + " | ".join(heads) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for one in sorted(by, key=lambda n: order(by[n][at])):
        cells = [shown(by[one][v][value], by[one][v]["low"], by[one][v]["high"]) for v in columns]
        yield f"| {one} | " + " | ".join(cells) + " |"
    yield ""


def pages(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables in Markdown."""
    for action, title in (("zeros", "Zeros by magnitude"), ("bits", "Widths")):
        part = result[action]
        count = len(part["joined"]["networks"]["fisher"])
        yield f"### {title}: rank correlation with the divergence of one layer, mean over {count} networks"
        levels = LEVELS[action]
        yield from pivoted(part["correlations"], "predictor", "level", "rho", levels, BOLD[action], weakness)
        yield "| predictor at the strong level, coefficients from other networks | rank correlation | beyond Fisher |"
        yield "|---|---|---|"
        for name, value in part["joined"]["rho"].items():
            beyond = part["joined"]["beyond_fisher"].get(name)
            yield f"| {name} | {shown(*value)} | {shown(*beyond) if beyond else '-'} |"
        yield ""
        count = part["recorded"][0]["networks"]
        yield f"| level, the {count} recorded networks | fisher | increments | increments beyond Fisher |"
        yield "|---|---|---|---|"
        for row in part["recorded"]:
            yield f"| {row['level']:g} | {shown(*row['fisher'])} | {shown(*row['increments'])} | {shown(*row['apart'])} |"
        yield ""
        yield f"### {title}: divergence of the whole network, as a share of the uniform allocation's (geometric mean)"
        sizes = BUDGETS[action]
        yield from pivoted(part["allocations"], "rival", "budget", "ratio", sizes, sizes[-1], lambda row: row["ratio"])
        yield "| data-free theory against | ratio of divergences | better on |"
        yield "|---|---|---|"
        for row in part["against"]:
            yield f"| {row['other']} | {shown(row['ratio'], row['low'], row['high'])} | {row['wins']} of {row['of']} |"
        yield ""
        yield "| prior | layers probed | share of the gap closed |"
        yield "|---|---|---|"
        for row in part["closed"]:
            yield f"| {row['prior']} | {100 * row['probed']:.0f} % | {shown(row['closed'], row['low'], row['high'])} |"
        yield ""
        yield "| network | budget | best null model | its divergence | fully informed | accuracy gained, points |"
        yield "|---|---|---|---|---|---|"
        for row in part["informed"]:
            yield (
                f"| {row['network']} | {row['budget']:g} | {row['best_null']} | {row['null_divergence']:.4f} | "
                f"{row['divergence']:.4f} | {row['gain']:+.2f} ± {row['half']:.2f} |"
            )
        yield ""


def shipped_prior() -> str:
    """The text of the prior that is learned on every network and that recipes name."""
    import tomllib

    head = "# Learned by `python -m benchmarks.theory --prior` on the networks that each table names; docs/theory/prior.md."
    lines = [head, "schema = 1"]
    for kind, action in (("pruning", "zeros"), ("quantization", "bits")):
        for base, features in (("error", RECORDED), ("fisher", INFORMED)):
            prior = learn_prior([evidence(found, features, base) for found in networks_to_learn_from("", action)], features)
            plain = prior_to_table(prior)
            for part, keys in {"": plain, ".coefficients": plain["coefficients"], ".covariance": plain["covariance"]}.items():
                lines += ["", f"[{kind}.{base}{part}]"]
                lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items() if not isinstance(value, dict)]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def main() -> int:
    """Compute, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", action="store_true")
    if parser.parse_args().prior:
        (ROOT / "recipes" / "priors").mkdir(exist_ok=True)
        (ROOT / "recipes" / "priors" / "small-networks.toml").write_text(shipped_prior())
    nulls = ("uniform", "erk", "lamp", "global_magnitude", "owl", "alpha_pruning, tuned", "farms, tuned", "depth_linear, tuned")
    blind = [f"{prior}, 0 probes" for prior in ("theory without a record", "no measures", "shuffled")]
    result = {}
    for action in LEVELS:
        free = [*nulls[:1], *(nulls[1:] if action == "zeros" else nulls[5:]), "equal error", "random", "hawq", "weight error"]
        result[action] = {
            "accuracies": {found["network"]: found["accuracy"] for found in known(action)},
            "correlations": correlations(action),
            "joined": joined(action),
            "recorded": recorded(action),
            "allocations": allocations(action),
            "against": against(action, "theory, 0 probes", [*free, *blind]),
            "closed": closed(action),
            "informed": informed(action, "fully probed, fisher between"),
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    text = "\n".join(pages(result))
    print(text)
    if PAGE.is_file():
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(head + BEGIN + text + END + rest.split(END)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
