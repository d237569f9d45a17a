"""The effect of heavy-tailed noise in training on compressibility: one hidden layer, with noise added after every step.

theta <- theta - rate * gradient + sigma * rate^(1/alpha) * xi, xi alpha-stable and rotationally invariant for each hidden
neuron's incoming weights; the outer layer is fixed. Source: Wan, Barsbey, Zaidi, Simsekli, ICML 2024 (arXiv 2306.08125). Their
theorem needs step sizes that are too small to run; this benchmark uses practical ones. Each sigma and alpha is reported.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_noise       # writes results/theory_noise.json
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.theory_zoo import digits
from dyncompress.measures import MEASURES
from dyncompress.types import Layer, Observation, Weight

RESULT = Path(__file__).parent / "results" / "theory_noise.json"
WIDTH, RATE, BATCH, STEPS = 1000, 0.05, 64, 6000
ALPHAS, SIGMAS, SEEDS = (2.0, 1.9, 1.75), (0.0, 0.001, 0.003), (0, 1)
KEPT = (0.5, 0.2, 0.1, 0.05)  # shares of neurons, and of weights, that are kept


def stable(rows: int, columns: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Rows of a rotationally invariant alpha-stable law, `[rows, columns]`: sqrt(A) * Gaussian, A positive, alpha / 2-stable."""
    normal = torch.randn(rows, columns, generator=generator)
    if alpha == 2:
        return math.sqrt(2) * normal
    a = alpha / 2  # Kanter's form of a positive stable variable with Laplace transform exp(-s^a)
    u = math.pi * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    e = -torch.rand(rows, 1, generator=generator, dtype=torch.float64).log()
    positive = (torch.sin(a * u) / torch.sin(u) ** (1 / a)) * (torch.sin((1 - a) * u) / e) ** ((1 - a) / a)
    return (math.sqrt(2) * positive.sqrt() * normal).float()


def trained(alpha: float, sigma: float, seed: int) -> nn.Sequential:
    """The trained network; its outer layer is fixed."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = digits("train", 60_000)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10, bias=False))
    model[3].weight.requires_grad_(False)  # type: ignore[union-attr]
    inner: nn.Linear = model[1]  # type: ignore[assignment]
    for _ in range(STEPS):
        some = torch.randint(0, len(x), (BATCH,))
        model.zero_grad()
        functional.cross_entropy(model(x[some]), y[some]).backward()
        with torch.no_grad():
            for weight in inner.parameters():
                weight -= RATE * weight.grad
            if sigma:
                inner.weight += sigma * RATE ** (1 / alpha) * stable(WIDTH, 784, alpha, generator)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The accuracy on the test digits."""
    x, y = digits("test", 10_000)
    return float((model(x).argmax(1) == y).float().mean())


@torch.no_grad()
def pruned(model: nn.Sequential, share: float, neurons: bool) -> float:
    """The accuracy if only the largest share of the inner layer's neurons (by norm) or weights is kept."""
    inner: nn.Linear = model[1]  # type: ignore[assignment]
    before = inner.weight.clone()
    size = before.norm(dim=1) if neurons else before.abs().flatten()
    kept = size >= size.sort(descending=True).values[max(round(share * len(size)) - 1, 0)]
    inner.weight.mul_(kept[:, None] if neurons else kept.reshape(before.shape))
    found = accuracy(model)
    inner.weight.copy_(before)
    return found


def examined(alpha: float, sigma: float, seed: int) -> dict[str, Any]:
    """The results of one run."""
    model = trained(alpha, sigma, seed)
    weight = model[1].weight.detach()
    seen = Observation(Layer("inner", "linear", tuple(weight.shape), 0), {Weight(): weight})
    tails = {name: MEASURES[name]()(seen).value for name in ("hill", "block_sum", "row_block_sum", "kurtosis")}
    row: dict[str, Any] = {"alpha": alpha, "sigma": sigma, "seed": seed, "accuracy": accuracy(model)} | tails
    for share in KEPT:
        row[f"neurons {share:g}"], row[f"weights {share:g}"] = pruned(model, share, True), pruned(model, share, False)
    return row


def main() -> None:
    """Run the grid; without noise there is one alpha."""
    rows = []
    for seed in SEEDS:
        for sigma in SIGMAS:
            for alpha in ALPHAS if sigma else ALPHAS[:1]:
                rows.append(examined(alpha, sigma, seed))
                print(json.dumps(rows[-1]), flush=True)
                RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
