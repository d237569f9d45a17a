"""Rounding learned through the whole network, on top of `packed`: the divergence from the original on new images.

The codes start with the result of error feedback. Codes, scales and biases then follow the gradient of the divergence from the
original on calibration images that are flipped, shifted and mixed; the codes use the straight-through estimator (Bengio et al.
2013). The evaluation uses tuning images that nothing else reads, float activations, and sizes estimated by the coder.

Run: `python -m benchmarks.learned_rounding [--net resnet44] [--rates 0.03 0.06] [--epochs 8]`
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import kl_div
from torch.optim.lr_scheduler import CosineAnnealingLR

import dyncompress as dc
from benchmarks.frontier_data import Case, tuning_images
from dyncompress.coding import code_length
from dyncompress.measures.divergence import divergence
from dyncompress.models.augmentation import augment
from dyncompress.types import Compressed, Distillation

ON_GRID = {"quantize.trellis": False, "quantize.damping": 0.01, "targets.mirrored": False}  # `packed` without its trellis
RESULT = Path(__file__).parent / "results" / "learned_rounding.json"
BATCH, CHEAP = 128, 5e-4  # examples for each step; learning rate of the logarithms of the scales and of the biases
MOVED = Distillation(shift=4, mix=0.5)


class Codes(nn.Module):
    """A network whose weights are rounded codes times scales; both can be trained."""

    def __init__(self, small: Compressed) -> None:
        """Start from the codes and scales of `small`."""
        super().__init__()
        self.network = small.module.eval()
        self.names = list(small.encodings)
        codes = [torch.as_tensor(e.codes).float() for e in small.encodings.values()]
        scales = [torch.as_tensor(e.scale).log() for e in small.encodings.values()]
        self.codes, self.scales = nn.ParameterList(codes), nn.ParameterList(scales)

    def forward(self, images: Tensor) -> Tensor:
        """The scores of images; the gradient ignores the rounding."""
        weights = {}
        for name, code, scale in zip(self.names, self.codes, self.scales, strict=True):
            rounded = code + (code.round() - code).detach()
            weights[f"{name}.weight"] = rounded * scale.exp().view(-1, *[1] * (code.dim() - 1))
        return functional_call(self.network, weights, (images,))

    def bytes(self) -> float:
        """The estimated bytes of the codes in a container."""
        return sum(code_length(code.detach().round().to(torch.int8).numpy()) for code in self.codes) / 8

    def distil(self, original: nn.Module, images: Tensor, rate: float, epochs: int) -> None:
        """Train codes, scales and biases on the answers of the original."""
        cheap = [*self.scales, *(p for name, p in self.network.named_parameters() if name.endswith("bias"))]
        adam = torch.optim.Adam([{"params": [*self.codes], "lr": rate}, {"params": cheap, "lr": CHEAP}], betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(1)
        decay = CosineAnnealingLR(adam, epochs * -(-len(images) // BATCH))
        for _ in range(epochs):
            for part in torch.randperm(len(images), generator=generator).split(BATCH):
                seen = augment({"x": images[part]}, MOVED, generator)["x"]
                with torch.no_grad():
                    wanted = original(seen).log_softmax(1)
                loss = kl_div(self(seen).log_softmax(1), wanted, log_target=True, reduction="batchmean")
                adam.zero_grad()
                loss.backward()
                adam.step()
                decay.step()


@torch.no_grad()
def apart(original: nn.Module, network: nn.Module, images: Tensor) -> float:
    """The divergence from the original, in nats."""
    pairs = [(original(part).numpy(), network(part).numpy()) for part in images.split(512)]
    return divergence(*(np.concatenate(side) for side in zip(*pairs, strict=True)))


def rows(net: str, rates: list[float], epochs: int) -> Iterator[dict[str, float]]:
    """Rows before the training and after it at each learning rate."""
    case = Case(net, 0)
    images, new, original = torch.from_numpy(case.images), torch.from_numpy(tuning_images()), case.module()
    on_grid = dc.load_recipe("packed", ON_GRID)
    plan = dc.compress(case.module(), on_grid, calibration=images).plan
    small = dc.apply(case.module(), plan, recipe=on_grid, calibration=images)
    for rate in (0.0, *rates):
        network, clock = Codes(small), time.perf_counter()
        before = [code.detach().clone() for code in network.codes]
        if rate:
            network.distil(original, images, rate, epochs)
        changed = sum(int((a.round() != b).sum()) for a, b in zip(network.codes, before, strict=True))
        yield {
            "rate": rate,
            "calibration": round(apart(original, network, images), 4),
            "new": round(apart(original, network, new), 4),
            "bytes": round(network.bytes()),
            "codes_changed": changed,
            "seconds": round(time.perf_counter() - clock),
        }


def main() -> None:
    """Print and write the rows of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="resnet44")
    parser.add_argument("--rates", nargs="*", type=float, default=[0.03, 0.06])
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    found = []
    for row in rows(args.net, args.rates, args.epochs):
        print(row, flush=True)
        found.append(row)
    RESULT.write_text(json.dumps({"net": args.net, "epochs": args.epochs, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
