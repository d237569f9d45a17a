"""Whether Fisher information from checkpoints orders training runs of Adam by their generalization gap.

This script trains the perceptrons on digits of `benchmarks.selection` by Adam instead of SGD, on a grid of rate x batch x depth
with three values each and two seeds, by the same protocol: until every training image is right and the mean loss is below 0.01,
and 1 001 steps more. Nothing is recorded. Each run ends in one checkpoint with the states of the model and the optimizer, and the
measures are read off these files as `rank` does it. The gap is test minus train on all 10 000 test images. Signs and settings
were fixed before anything was measured; nothing was tuned.

A finished run is stored in out/selection_adam and never computed again. Run:

    DYNCOMPRESS_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.selection_adam [--seeds 0 1] [--only-tables]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.selection import (
    BATCHES,
    DEPTHS,
    LOSS,
    RECORDS,
    STEPS,
    TRAIN,
    Run,
    batches,
    correlated,
    data,
    judged,
    learned,
    norms,
    perceptron,
)
from benchmarks.selection_tables import GAPS, ROOT, whole_table
from dyncompress.measures import FisherRaoNorm, FisherTrace, HessianTrace, StableRank
from dyncompress.pipeline.selection.reading import Examples, checkpoint, estimates
from dyncompress.recording.torch_callback import layer_weights
from dyncompress.reports import plain_json

KEPT = ROOT / "out" / "selection_adam"
RESULTS = ROOT / "benchmarks" / "results" / "selection_adam.json"
PAGE = ROOT / "docs" / "theory" / "model_selection.md"
BEGIN, END = "<!-- selection of Adam -->\n", "<!-- /selection of Adam -->"
RATES = (0.0003, 0.001, 0.003)
MEASURES = {
    "fisher_trace": FisherTrace(),
    "fisher_rao_norm": FisherRaoNorm(),
    "hessian_trace": HessianTrace(),
    "stable_rank": StableRank(),
}


def trained(run: Run, x: Tensor, y: Tensor, folder: Path) -> tuple[nn.Module, dict[str, Tensor], Path, int]:
    """The network, its initial weights, the path of its checkpoint, and the number of steps before the last 1 001."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = perceptron(run.depth)
    start = {name: weight.clone() for name, weight in layer_weights(model).items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=run.rate)
    draw = batches(len(x), run.batch, torch.Generator().manual_seed(run.seed))

    def steps_of(number: int) -> None:
        for _ in range(number):
            rows = next(draw)
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()

    steps = 0
    while steps < STEPS:
        steps_of(len(x) // run.batch)
        steps += len(x) // run.batch
        error, loss = judged(model, x, y)
        if error == 0 and loss < LOSS:
            break
    steps_of(RECORDS)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")
    return model, start, folder / "last.pt", steps


def finished(run: Run, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The row of a run: the gap, every measure, and the processor seconds."""
    began = time.process_time()
    with TemporaryDirectory() as folder:
        model, start, path, steps = trained(run, *train, Path(folder))
        given = checkpoint(run.name, (model, path), run.batch)
        found = estimates(given, MEASURES, Examples(list(train[0][:256].split(64)), True))
    (error, loss), (test_error, test_loss) = judged(model, *train), judged(model, *test)
    weights = sum(w.numel() for w in layer_weights(model).values())
    known = {"rate": run.rate, "batch": run.batch, "batch / rate": run.batch / run.rate, "number of weights": weights}
    return {
        **asdict(run),
        "steps": steps,
        "train error": error,
        "train loss": loss,
        "test error": test_error,
        "test loss": test_loss,
        "error gap": test_error - error,
        "loss gap": test_loss - loss,
        "measures": {name: {key: getattr(one, key) for key in ("value", "stderr", "valid")} for name, one in found.items()},
        "norms": norms(model, start),
        "nulls": {**known, "training loss": loss},
        "processor seconds": time.process_time() - began,
    }


def rows(seeds: list[int], only_tables: bool) -> list[dict[str, Any]]:
    """All runs; missing ones are computed."""
    KEPT.mkdir(parents=True, exist_ok=True)
    found, loaded = [], None
    for seed, rate, batch, depth in itertools.product(seeds, RATES, BATCHES, DEPTHS["mnist"]):
        run = Run("adam", rate, batch, depth, seed)
        file = KEPT / f"{run.name}.json"
        if not file.exists() and not only_tables:
            loaded = loaded or data("mnist")
            row = finished(run, *loaded)
            file.with_suffix(".part").write_text(json.dumps(plain_json(row), indent=1) + "\n")
            file.with_suffix(".part").replace(file)
            print(run.name, *(f"{row[key]:.3f}" for key in ("steps", "train error", "train loss", *GAPS)), flush=True)
        if file.exists():
            found.append(json.loads(file.read_text()))
    return found


def page(result: dict[str, Any]) -> str:
    """The text between the markers of the page."""
    runs = result["runs"]
    spans = ", ".join(f"{gap} {min(run[gap] for run in runs):.2f} to {max(run[gap] for run in runs):.2f}" for gap in GAPS)
    out = ", ".join(f"rate {r['rate']:g} batch {r['batch']} depth {r['depth']} seed {r['seed']}" for r in result["left out"])
    parts = [f"Perceptrons on {TRAIN} digits by Adam: {len(runs)} runs; {spans}; left out: {out or 'none'}."]
    for gap, unit in zip(GAPS, ("points", "nats"), strict=True):
        parts.append(f"**{gap}** ({unit})\n\n{whole_table(result['correlations'][gap])}")
    return "\n\n".join(parts)


def main() -> None:
    """Train and measure the runs, compute the coefficients, and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only-tables", action="store_true", help="compute the tables from the stored runs only")
    args = parser.parse_args()
    made = rows(args.seeds, args.only_tables)
    found = [row for row in made if learned(row)]
    left_out = [{key: row[key] for key in asdict(Run("", 0, 0, 0, 0))} for row in made if not learned(row)]
    result = plain_json({"runs": found, "left out": left_out, "correlations": correlated(found)})
    RESULTS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + page(result) + "\n" + END + rest.split(END)[1])
    print(page(result))


if __name__ == "__main__":
    main()
