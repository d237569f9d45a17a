"""What 3, 10 and 30 checkpoints of a run show, beside a dense record of its end: each measure, and the order of the layers.

Reads what `benchmarks.adam_zoo` kept of its networks under out/adam: checkpoints at equal distances over the whole training and
over its last steps, the dense record of the last steps, and the divergences of `benchmarks.adam_damage`, where they exist.

    DYNCOMPRESS_DATA=... python -m benchmarks.coarse_trajectories [--only NAME ...]     # into out/adam/NAME_coarse.json
    python -m benchmarks.coarse_trajectories --table
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.adam_damage import CHOICES, Subject, path, subject
from benchmarks.adam_zoo import OUT, ZOO
from benchmarks.theory import spearman
from dyncompress.measures import MEASURES
from dyncompress.measures.distances import centred_gram
from dyncompress.measures.participation_ratio import FEWEST, unlimited_ratio
from dyncompress.pipeline.profiling.candidates import motion_distortion
from dyncompress.pipeline.task import with_run
from dyncompress.recording import TrajectoryWriter, load_trajectory
from dyncompress.recording.checkpoint_sequence import trajectory_of
from dyncompress.recording.torch_callback import layer_weights, optimizer_state
from dyncompress.types import Estimate, Iterates, Layer, Motion, Observation, Trajectory, Weight

COUNTS = (3, 10, 30)
SERIES = {"whole run": "", "last steps": "-late"}
UNLIMITED = "participation ratio without the limit of few movements"
OF_RUNS = (
    "ph_dimension",
    "two_nn",
    "participation_ratio",
    UNLIMITED,
    "lifetime_sum",
    "magnitude",
    "increment_tail",
    "fluctuation_scale",
    "signal_to_noise",
)
LEVELS = ("70 % zeros", "3 bits")


def checkpoints(name: str, ending: str, count: int) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """(step, weights of the layers) of `count` checkpoints at equal distances, the last one among them."""
    module, files = ZOO[name].build(), sorted((OUT / f"{name}{ending}").glob("step_*.pt"))
    for place in np.linspace(0, len(files) - 1, count).round().astype(int):
        saved = torch.load(files[place])
        module.load_state_dict(saved["model"])
        yield saved["step"], {layer: weight.clone() for layer, weight in layer_weights(module).items()}


def stored(name: str) -> Trajectory:
    """One record, of the last checkpoint and its optimizer's state."""
    module, saved = ZOO[name].build(), torch.load(OUT / f"{name}.pt")
    module.load_state_dict(saved["model"])
    optimizer, writer = ZOO[name].optimizer(module), TrajectoryWriter(batch_size=ZOO[name].batch)
    optimizer.load_state_dict(saved["optimizer"])
    writer.optimizer = optimizer_state(module, optimizer)
    writer.append(saved["step"], layer_weights(module))
    return writer.trajectory()


def estimates(run: Trajectory) -> dict[str, dict[str, Estimate]]:
    """Measure -> layer -> estimate."""
    found: dict[str, dict[str, Estimate]] = {measure: {} for measure in OF_RUNS}
    for name, motion in run.motion.items():
        layer = Layer(name, "linear", motion.mean.shape, macs=motion.mean.size)
        seen = Observation(layer, {Motion(): motion, Iterates(): run.sketches[name]})
        for measure in OF_RUNS:
            found[measure][name] = _unlimited(run.sketches[name]) if measure == UNLIMITED else MEASURES[measure]()(seen)
    return found


def _unlimited(rows: np.ndarray) -> Estimate:
    """The participation ratio of increments from unbiased moments."""
    movements = np.diff(rows.astype(float), axis=0)
    value = unlimited_ratio(centred_gram(movements)) if len(movements) >= FEWEST else math.nan
    return Estimate(value, math.nan, len(movements), valid=math.isfinite(value))


def predicted(here: Subject, run: Trajectory) -> dict[str, list[float]]:
    """Level -> distortion of each layer by the Fisher information of a run."""
    seen, rows = dict(with_run(here.start, run).observe((Weight(),))), {}
    for level in LEVELS:
        distortions = []
        for layer, observation in here.weights.items():
            weight, new = observation[Weight()].detach().float(), here.compressed(layer, CHOICES[level])
            distortions.append(motion_distortion(seen[layer], weight, new))
        rows[level] = [float(d) for d in distortions]
    return rows


def compared(few: Mapping[str, Estimate], dense: Mapping[str, Estimate]) -> dict[str, float]:
    """How the values of few checkpoints compare with those of the dense record, over layers that have both."""
    pairs = [(few[layer], dense[layer]) for layer in few if math.isfinite(few[layer].value) and math.isfinite(dense[layer].value)]
    a, b = (
        (np.array([estimate.value for estimate in side]) for side in zip(*pairs, strict=True)) if pairs else (np.array([]),) * 2
    )
    errors = np.array([math.hypot(x.stderr, y.stderr) for x, y in pairs])
    within = np.abs(a - b) < 2 * errors if np.isfinite(errors).all() else np.full(len(a), np.nan)
    return {
        "layers": len(few),
        "answered": len(pairs),
        "valid": float(np.mean([few[layer].valid for layer in few])),
        "ratio": float(np.median(a[b != 0] / b[b != 0])) if b.any() else math.nan,
        "rank": spearman(a, b) if len(pairs) > 2 else math.nan,
        "within": float(np.mean(within)) if len(pairs) else math.nan,
    }


def examined(name: str) -> dict[str, Any]:
    """The results of one network, as plain values."""
    here, dense = subject(name), load_trajectory(OUT / f"{name}.npz")
    reference = estimates(dense)
    damage = json.loads(path(name).read_text())["layers"] if path(name).is_file() else {}
    truth = {level: [damage[layer][level]["truth"] for layer in here.weights] for level in LEVELS} if damage else {}
    runs = {f"{title}, {count}": (ending, count) for title, ending in SERIES.items() for count in COUNTS}
    rows = {}
    for title, (ending, count) in runs.items():
        run = trajectory_of(checkpoints(name, ending, count), batch_size=ZOO[name].batch)
        rows[title] = {
            "measures": {m: compared(found, reference[m]) for m, found in estimates(run).items()},
            "damage": {
                level: spearman(np.array(d), np.array(truth[level])) for level, d in predicted(here, run).items() if truth
            },
        }
    for title, run in (("dense record", dense), ("state of the optimizer", stored(name))):
        same = {m: compared(found, reference[m]) for m, found in estimates(run).items()}
        told = predicted(here, run)
        rows[title] = {"measures": same, "damage": {k: spearman(np.array(told[k]), np.array(truth[k])) for k in truth}}
    return rows


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The medians over networks, in Markdown."""
    titles = list(next(iter(results.values())))
    lines = [f"| over {len(results)} networks | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for level in LEVELS:
        cells = [_median(found[title]["damage"].get(level, math.nan) for found in results.values()) for title in titles]
        lines.append(f"| Fisher information, rank correlation with the divergence at {level} | {' | '.join(cells)} |")
    for measure in OF_RUNS:
        for key in ("answered", "ratio", "rank", "within"):
            own = [[found[title]["measures"][measure] for found in results.values()] for title in titles]
            cells = [_median(one[key] / (one["layers"] if key == "answered" else 1) for one in each) for each in own]
            lines.append(f"| {measure}: {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: Iterator[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{np.median(finite):.2f}" if finite else "-"


def main() -> None:
    """Examine the networks that have a dense record, or print the table of those that were examined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = {name: OUT / f"{name}_coarse.json" for name in arguments.only}
    if arguments.table:
        print(table({name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}))
        return
    for name, file in files.items():
        if (OUT / f"{name}.npz").is_file():
            file.write_text(json.dumps(examined(name), indent=1))
            print(name, flush=True)


if __name__ == "__main__":
    main()
