"""From Adam's accumulators to nats: what each difference between them and the Fisher information of the outputs costs.

For every network of `benchmarks.adam_zoo`, the sum over a layer's weights of five quantities, each a step from the one before:

    fisher    squares of gradients of single examples, with labels drawn from the network, in eval mode
    labels    the same with the labels of the training set
    batches   batch size times the variance of the gradients of minibatches, in eval mode
    training  the same in training mode (statistics of the batch, augmentation)
    kept      batch size times what the optimizer kept, without the share of the squared mean

`ratios` gives the median over layers of each ratio, the share of the squared mean, and the ratio of the divergence to the
prediction (`benchmarks.adam_damage`, 3 bits).

    DYNCOMPRESS_DATA=... python -m benchmarks.adam_units [--only NAME ...]     # into out/adam
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.adam_zoo import OUT, ZOO, trained
from benchmarks.theory_zoo import moved
from dyncompress.recording.training_states import load_training_state

EXAMPLES, BATCHES = 512, 128
STEPS = ("fisher", "labels", "batches", "training", "kept")


def weights_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with two or more axes."""
    return {name: p for name, p in module.named_parameters() if p.ndim > 1}


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Parameter -> its gradient."""
    weights = weights_of(module)
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def of_examples(module: nn.Module, x: Tensor, labels: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Parameter -> the mean over examples of the squared norm of its gradient."""
    total = dict.fromkeys(weights_of(module), 0.0)
    for i in range(len(x)):
        scores = module(x[i : i + 1])
        for name, g in gradients(module, functional.cross_entropy(scores, labels(scores)[i : i + 1])).items():
            total[name] += float(g.square().sum()) / len(x)
    return total


def of_batches(module: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], size: int) -> dict[str, float]:
    """Parameter -> batch size times the trace of the covariance of its minibatch gradients."""
    sums, squares, count = {}, {}, 0
    for x, y in batches:
        count += 1
        for name, g in gradients(module, functional.cross_entropy(module(x), y)).items():
            sums[name] = sums.get(name, 0) + g
            squares[name] = squares.get(name, 0.0) + float(g.square().sum())
    return {n: size * (squares[n] - float(sums[n].square().sum()) / count) / (count - 1) for n in sums}


def examined(name: str) -> dict[str, Any]:
    """The five sums of every layer, and the share of the squared mean."""
    module, last = trained(name)
    spec = ZOO[name]
    x, y = spec.data("train", spec.images)
    torch.manual_seed(0)
    some = torch.randperm(len(x))[:EXAMPLES]

    def drawn(scores: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=scores).sample((len(some),))[:, 0]

    def batches(augmented: bool) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(BATCHES):
            ids = torch.randint(0, len(x), (spec.batch,))
            yield (moved(x[ids]) if augmented else x[ids]), y[ids]

    found = {"fisher": of_examples(module, x[some], drawn), "labels": of_examples(module, x[some], lambda _: y[some])}
    found["batches"] = of_batches(module, batches(False), spec.batch)
    state = load_training_state(last)
    kept = state.parameters
    found["training"] = of_batches(module.train(), batches(True), spec.batch)
    found["kept"] = {n: spec.batch * float(p.square.sum(dtype=np.float64)) * (1 - p.drift) for n, p in kept.items()}
    names = [n for n in found["fisher"] if n in kept]
    return {
        "network": name,
        "sums": {step: [values[n] for n in names] for step, values in found.items()},
        "drift": [kept[n].drift for n in names],
        "layers": names,
    }


def ratios(name: str) -> dict[str, float]:
    """The medians over the layers of a network; empty if it wasn't measured."""
    if not (file := OUT / f"{name}_units.json").is_file():
        return {}
    found = json.loads(file.read_text())
    sums = {step: np.array(values) for step, values in found["sums"].items()}
    rows = {f"{after} / {before}": float(np.median(sums[after] / sums[before])) for before, after in itertools.pairwise(STEPS)}
    rows["kept / fisher"] = float(np.median(sums["kept"] / sums["fisher"]))
    rows["squared mean"] = float(np.median(found["drift"]))
    damage = json.loads((OUT / f"{name}_damage.json").read_text())["layers"]
    layers = [one["3 bits"] for one in damage.values()]
    rows["divergence / prediction"] = float(np.median([layer["truth"] / layer["acc_prior"] for layer in layers]))
    return rows


def main() -> None:
    """Compute the networks that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    args = parser.parse_args()
    for name in args.only:
        file = OUT / f"{name}_units.json"
        if not file.is_file():
            file.write_text(json.dumps(examined(name)) + "\n")
            print(name, flush=True)


if __name__ == "__main__":
    main()
