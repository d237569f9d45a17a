"""Whether measures predict the generalization gap across training runs better than norms, sharpness or known quantities.

This script trains two grids of networks by plain SGD at a constant learning rate, without momentum and decay: perceptrons on
2 000 digits, and convolutional networks on 2 000 CIFAR images at half their size. The grids are rate x batch x depth with three
values each and two seeds. A run trains until every training image is right and the mean loss is below 0.01 (Jiang et al., ICLR
2020). Runs that diverge or do not get there are left out and named. Then 1 001 more steps are recorded, every one: sketches of
weights and gradients, and the losses of 256 training images. All measures read the last iterate or these steps. The gap is test
minus train, for the error in points and for the cross-entropy in nats, on all 10 000 test images. Signs and settings were fixed
before anything was measured; nothing was tuned.

The nulls are quantities that are known without measuring: learning rate, batch size, their quotient, the number of weights and
the final training loss. The column `seed` compares runs that differ in the seed alone, where no hyper-parameter explains the gap.

A finished run is stored in out/selection and never computed again. Run:

    DYNCOMPRESS_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.selection [--grid mnist cifar] [--seeds 0 1] [--only-tables]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.selection_tables import GAPS, RESULTS, runs_line, whole_table
from dyncompress.measures import (
    DataPhDimension,
    EsdMid,
    EsdPowerLaw,
    GradientNoiseTail,
    HessianTrace,
    IncrementTail,
    LifetimeSum,
    LogAlphaNorm,
    Magnitude,
    ParticipationRatio,
    PhDimension,
    PositiveMagnitude,
    SharpnessDimension,
    StableRank,
    TwoNN,
)
from dyncompress.pipeline.selection.prediction import PREDICTIONS
from dyncompress.pipeline.selection.rank_correlation import agreement
from dyncompress.pipeline.selection.reading import Checkpoint, Examples, estimates
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import layer_gradients, layer_weights
from dyncompress.reports import plain_json
from dyncompress.types import Measure, Trajectory
from tests.data import cifar10, mnist

KEPT = Path(__file__).parent.parent / "out" / "selection"
TRAIN, RECORDS, WATCHED, LENGTH = 2000, 1001, 256, 512
LOSS, STEPS = 0.01, 30_000  # training ends at this loss, or after these steps
BATCHES = (16, 32, 64)
RATES = {"mnist": (0.03, 0.1, 0.3), "cifar": (0.015, 0.03, 0.06)}  # at 0.1, the networks on CIFAR do not learn
DEPTHS = {"mnist": (1, 2, 4), "cifar": (2, 3, 4)}  # one convolution never learns all images

# Measures that are not in the library's table of predictions, and the source of their sign.
NORMS = {
    "sum of log Frobenius norms": "Neyshabur et al. 2015: the product of norms",
    "sum of log spectral norms": "Bartlett et al. 2017: the product of norms",
    "Frobenius norm": "Jiang et al. 2020",
    "distance from initialisation": "Nagarajan, Kolter 2019",
    "spectral complexity": "Neyshabur et al. 2018: product of spectral norms times stable ranks, logarithm",
}
NULLS = {"rate": -1, "batch": 1, "batch / rate": 1, "number of weights": 1, "training loss": 1}


@dataclass(frozen=True)
class Run:
    """One cell of a grid."""

    grid: str
    rate: float
    batch: int
    depth: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.grid}_r{self.rate:g}_b{self.batch}_d{self.depth}_s{self.seed}"


def perceptron(depth: int) -> nn.Module:
    """A perceptron with 784 inputs and `depth` hidden layers of 128."""
    widths = [784, *[128] * depth]
    hidden = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def convolutional(depth: int) -> nn.Module:
    """`depth` convolutions on 3 x 16 x 16 inputs (the first two halve the map), and a linear head on a 4 x 4 map."""
    parts: list[nn.Module] = []
    for i in range(depth):
        parts += [nn.Conv2d(3 if i == 0 else 24, 24, 3, padding=1), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if i < 2 else []
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(24 * 16, 10))


def data(grid: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images of a grid."""
    if grid == "mnist":
        pairs = mnist("train", TRAIN), mnist("test")
        return tuple(((x - 0.13) / 0.31, y) for x, y in pairs)  # type: ignore[return-value]
    pairs = cifar10("train", TRAIN), cifar10("test")
    return tuple((functional.avg_pool2d(x, 2), y) for x, y in pairs)  # type: ignore[return-value]


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """An endless iterator over indices of minibatches; each epoch has a new order."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % size].split(size)


def judged(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The error in points and the mean cross-entropy."""
    with torch.no_grad():
        scores = torch.cat([model(part) for part in x.split(2000)])
    return 100 * float((scores.argmax(1) != y).double().mean()), float(functional.cross_entropy(scores.double(), y))


def trained(run: Run, x: Tensor, y: Tensor) -> tuple[nn.Module, dict[str, Tensor], Trajectory, int]:
    """The network, its initial weights, the recorded trajectory, and the number of steps before the recording."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = perceptron(run.depth) if run.grid == "mnist" else convolutional(run.depth)
    start = {name: weight.clone() for name, weight in layer_weights(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=run.rate)
    draw = batches(len(x), run.batch, torch.Generator().manual_seed(run.seed))

    def step() -> Tensor:
        rows = next(draw)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        return loss.detach()

    steps = 0
    while steps < STEPS:
        for _ in range(len(x) // run.batch):
            step()
        steps += len(x) // run.batch
        error, loss = judged(model, x, y)
        if not math.isfinite(loss):
            raise FloatingPointError(f"{run.name} diverged")
        if error == 0 and loss < LOSS:
            break
    writer = TrajectoryWriter(sketch=LENGTH, learning_rate=run.rate, batch_size=run.batch)
    for record in range(RECORDS):
        loss = step()
        with torch.no_grad():
            watched = functional.cross_entropy(model(x[:WATCHED]), y[:WATCHED], reduction="none")
        weights, slopes = layer_weights(model), layer_gradients(model)
        writer.append(steps + record + 1, weights, loss, gradients=slopes, losses_per_example=watched)
    return model, start, writer.trajectory(), steps


def measures(run: Run) -> dict[str, Measure]:
    """Every measure, with the settings that its theory prescribes."""
    scale = math.sqrt(TRAIN)
    return {
        "ph_dimension": PhDimension(),
        "data_ph_dimension": DataPhDimension(),
        "lifetime_sum": LifetimeSum(),
        "magnitude": Magnitude(scale),
        "positive_magnitude": PositiveMagnitude(scale),
        "increment_tail": IncrementTail(),
        "gradient_noise_tail": GradientNoiseTail(),
        "two_nn": TwoNN(),
        "participation_ratio": ParticipationRatio(),
        "hessian_trace": HessianTrace(),
        "sharpness_dimension": SharpnessDimension(rate=run.rate),
        "esd_mid": EsdMid(),
        "esd_power_law": EsdPowerLaw(),
        "log_alpha_norm": LogAlphaNorm(),
        "stable_rank": StableRank(),
    }


def norms(model: nn.Module, start: dict[str, Tensor]) -> dict[str, float]:
    """Norms of the final weights, combined over layers by a sum of squares or a product."""
    weights = {name: weight.reshape(len(weight), -1).double() for name, weight in layer_weights(model).items()}
    frobenius = [float(w.norm()) for w in weights.values()]
    spectral = [float(torch.linalg.matrix_norm(w, 2)) for w in weights.values()]
    away = [float((w - start[name].reshape(len(w), -1)).norm()) for name, w in weights.items()]
    ranks = sum((f / s) ** 2 for f, s in zip(frobenius, spectral, strict=True))
    return {
        "sum of log Frobenius norms": sum(map(math.log, frobenius)),
        "sum of log spectral norms": sum(map(math.log, spectral)),
        "Frobenius norm": math.hypot(*frobenius),
        "distance from initialisation": math.hypot(*away),
        "spectral complexity": 2 * sum(map(math.log, spectral)) + math.log(ranks),
    }


def finished(run: Run, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The row of a run: the gap, every measure, and the processor seconds."""
    began = time.process_time()
    model, start, trajectory, steps = trained(run, *train)
    training = time.process_time() - began
    (error, loss), (test_error, test_loss) = judged(model, *train), judged(model, *test)
    found = estimates(Checkpoint(run.name, model, trajectory), measures(run), Examples(list(train[0][:256].split(64)), True))
    values = {name: {key: getattr(estimate, key) for key in ("value", "stderr", "valid")} for name, estimate in found.items()}
    weights = sum(w.numel() for w in layer_weights(model).values())
    nulls = {
        "rate": run.rate,
        "batch": run.batch,
        "batch / rate": run.batch / run.rate,
        "number of weights": weights,
        "training loss": loss,
    }
    return {
        **asdict(run),
        "steps": steps,
        "train error": error,
        "train loss": loss,
        "test error": test_error,
        "test loss": test_loss,
        "error gap": test_error - error,
        "loss gap": test_loss - loss,
        "measures": values,
        "norms": norms(model, start),
        "nulls": nulls,
        "processor seconds": [training, time.process_time() - began - training],
    }


def rows(grid: str, seeds: list[int], only_tables: bool) -> list[dict[str, Any]]:
    """All runs of a grid; missing ones are computed. A run that diverged has no gap."""
    KEPT.mkdir(parents=True, exist_ok=True)
    found, loaded = [], None
    for seed, rate, batch, depth in itertools.product(seeds, RATES[grid], BATCHES, DEPTHS[grid]):
        run = Run(grid, rate, batch, depth, seed)
        file = KEPT / f"{run.name}.json"
        if not file.exists() and not only_tables:
            loaded = loaded or data(grid)
            try:
                row = finished(run, *loaded)
            except FloatingPointError:
                row = {**asdict(run), "diverged": True}
            file.with_suffix(".part").write_text(json.dumps(row, indent=1) + "\n")
            file.with_suffix(".part").replace(file)
            told = [f"{row.get(key, math.nan):.3f}" for key in ("steps", "train error", "train loss", *GAPS)]
            print(run.name, *told, row.get("processor seconds"), flush=True)
        if file.exists():
            found.append(json.loads(file.read_text()))
    return found


def learned(row: dict[str, Any]) -> bool:
    """Whether a run learned all training images, so that it can be compared with others."""
    return "diverged" not in row and row["train error"] == 0


def columns(found: list[dict[str, Any]]) -> dict[str, tuple[int, list[float]]]:
    """Name -> the predicted sign (0 for none), and the values of all runs."""
    table: dict[str, tuple[int, list[float]]] = {}
    for name in found[0]["measures"]:
        sign = PREDICTIONS[name].sign if name in PREDICTIONS else 0
        table[name] = sign, [row["measures"][name]["value"] for row in found]
    table |= {name: (1, [row["norms"][name] for row in found]) for name in NORMS}
    return table | {name: (sign, [row["nulls"][name] for row in found]) for name, sign in NULLS.items()}


def correlated(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Gap -> measure -> the coefficients of the measure times its predicted sign."""
    settings = {key: [row[key] for row in found] for key in ("rate", "batch", "depth")}
    result: dict[str, Any] = {}
    for gap in GAPS:
        gaps = np.array([row[gap] for row in found])
        result[gap] = {}
        for name, (sign, values) in columns(found).items():
            agreed = agreement(np.array(values), gaps, settings)
            cells = ["/".join(str(row[key]) for key in settings) for row in found]
            with_seeds = agreement(np.array(values), gaps, {**settings, "seed": [row["seed"] for row in found]}, groups=cells)
            seeds = with_seeds.granulated.get("seed")
            agreed = agreed if seeds is None else replace(agreed, granulated={**agreed.granulated, "seed": seeds})
            agreed = agreed.negated() if sign < 0 else agreed
            valid = sum(row["measures"][name]["valid"] for row in found) if name in found[0]["measures"] else len(found)
            result[gap][name] = {"sign": sign, "valid": valid, "runs": len(found), **asdict(agreed)}
    return result


def main() -> None:
    """Train and measure the runs, compute the coefficients, print and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grid", nargs="+", choices=("mnist", "cifar"), default=["mnist", "cifar"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only-tables", action="store_true", help="compute the tables from the stored runs only")
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for grid in args.grid:
        made = rows(grid, args.seeds, args.only_tables)
        found = [row for row in made if learned(row)]
        if len(found) < 3:
            continue
        out = [{key: row[key] for key in asdict(Run("", 0, 0, 0, 0))} for row in made if not learned(row)]
        known[grid] = {"runs": found, "left out": out, "correlations": correlated(found)}
        print("\n" + runs_line(grid, known[grid]))
        for gap in GAPS:
            print(f"\n{grid}, {gap}\n\n{whole_table(known[grid]['correlations'][gap])}", flush=True)
        RESULTS.write_text(json.dumps(plain_json(known), indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
