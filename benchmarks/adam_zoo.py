"""The networks of `benchmarks.adam_damage`, trained by Adam on real data, with everything kept that people keep of a run.

There are six families on images, speech and text. Learning rates, batch sizes, weight decays and depths differ on purpose; none
was tuned. The last `LATE` steps run at a tenth of the learning rate. Nothing of this is committed. Kept under out/adam:

- `NAME.pt`: the last checkpoint, with the weights, the optimizer's state, the number of steps and the batch size;
- `NAME/step_*.pt`: `KEPT` checkpoints at equal distances over the whole training, without the optimizer's state but for the last;
- `NAME-late/step_*.pt`: `KEPT` checkpoints at equal distances over the last steps, without the optimizer's state;
- `NAME.npz`: the recorded trajectory of the last steps.

    DYNCOMPRESS_DATA=... python -m benchmarks.adam_zoo [--only NAME ...]      # trains the networks that out/adam lacks
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.theory_zoo import (
    Reader,
    ReaderBlock,
    Split,
    characters,
    digits,
    listener,
    moved,
    perceptron,
    pictures,
    plain,
    residual,
    spoken,
)
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import record

OUT = Path(__file__).parent.parent / "out" / "adam"
LATE = 1000  # last steps, at a tenth of the learning rate, which are recorded
KEPT = 30  # checkpoints of a series
FAMILIES = ("perceptron", "convolutional", "speech", "recurrent", "text", "vision")


# ---------------------------------------------------------------- networks
class Hearer(nn.Module):
    """A recurrent network of gated units that classifies a spectrogram, two frames at a time."""

    def __init__(self, width: int, depth: int) -> None:
        """Build `depth` recurrent layers."""
        super().__init__()
        self.front, self.head = nn.Linear(128, width), nn.Linear(width, 10)
        self.units = nn.GRU(width, width, depth, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Spectrograms `[n, 64 frequencies, 64 frames]` -> scores `[n, 10]`."""
        frames = x.transpose(1, 2).reshape(x.shape[0], 32, 128)
        return self.head(self.units(functional.relu(self.front(frames)))[0].mean(1))


class Speller(nn.Module):
    """A recurrent network of gated units that scores the next character."""

    def __init__(self, width: int, depth: int, words: int = 65) -> None:
        """Build `depth` recurrent layers."""
        super().__init__()
        self.words, self.head = nn.Embedding(words, width), nn.Linear(width, words)
        self.units = nn.GRU(width, width, depth, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Characters `[n, length]` -> scores `[n, words]` of the next character."""
        return self.head(self.units(self.words(tokens))[0][:, -1])


class Viewer(nn.Module):
    """A vision transformer on square patches, which averages over them before it classifies."""

    def __init__(self, channels: int, size: int, patch: int, width: int, depth: int) -> None:
        """Build `depth` blocks for images of `size` pixels a side."""
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.blocks = nn.ModuleList(ViewerBlock(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, channels, size, size]` -> scores `[n, 10]`."""
        h = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(1))


class ViewerBlock(ReaderBlock):
    """A transformer block in which every position sees all others."""

    def forward(self, x: Tensor) -> Tensor:
        """`[n, length, width]` -> the same."""
        h = self.first(x)
        q, k, v = (layer(h).reshape(len(x), x.shape[1], 4, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))


@dataclass(frozen=True)
class Network:
    """How one network is made.

    Attributes:
        family: one of `FAMILIES`.
        build: makes the module with random weights.
        data: (split, n) -> inputs and labels.
        images: training examples used.
        rate, batch, steps: of training.
        decay: of AdamW; None for Adam without weight decay.
        betas: decay rates of the moments of the gradient.
    """

    family: str
    build: Callable[[], nn.Module]
    data: Callable[[str, int], Split]
    images: int
    rate: float
    batch: int
    steps: int = 3000
    decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Adam or AdamW."""
        if self.decay is None:
            return torch.optim.Adam(module.parameters(), lr=self.rate, betas=self.betas)
        return torch.optim.AdamW(module.parameters(), lr=self.rate, betas=self.betas, weight_decay=self.decay)


def halved(network: nn.Module) -> nn.Sequential:
    """The network on images of half the resolution."""
    return nn.Sequential(nn.AvgPool2d(2), *network.children())


COLOURS, GREYS = (16, 32, 32, 32, 64, 64, 64, 64), (8, 8, 16, 16, 16, 32, 32, 32)
ZOO = {
    "perceptron-6": Network("perceptron", lambda: perceptron(256, 6, norms=False), digits, 60_000, 0.001, 64, 6000),
    "perceptron-9-norm": Network("perceptron", lambda: perceptron(128, 9, norms=True), digits, 60_000, 0.002, 128, decay=0.01),
    "plain-norm": Network("convolutional", lambda: plain(3, COLOURS, norms=True), pictures, 30_000, 0.002, 64, decay=0.05),
    "plain-digits-norm": Network("convolutional", lambda: plain(1, GREYS, norms=True), digits, 30_000, 0.002, 32),
    "residual-14": Network("convolutional", lambda: halved(residual(3, 12, 2)), pictures, 30_000, 0.003, 64, decay=0.01),
    "listener-8": Network("speech", lambda: listener(64, 8), spoken, 2700, 0.001, 32),
    "listener-12": Network("speech", lambda: listener(32, 12), spoken, 2700, 0.003, 64, decay=0.1, betas=(0.9, 0.95)),
    "hearer-3": Network("recurrent", lambda: Hearer(64, 3), spoken, 2700, 0.002, 32),
    "speller-3": Network("recurrent", lambda: Speller(96, 3), characters, 200_000, 0.002, 64, decay=0.01),
    "reader-4": Network("text", lambda: Reader(64, 4), characters, 200_000, 0.002, 64, decay=0.01),
    "reader-6": Network("text", lambda: Reader(48, 6), characters, 200_000, 0.003, 32, decay=0.1, betas=(0.9, 0.95)),
    "viewer-4-digits": Network("vision", lambda: Viewer(1, 28, 7, 64, 4), digits, 60_000, 0.001, 64, decay=0.05),
    "viewer-4": Network("vision", lambda: Viewer(3, 32, 4, 48, 4), pictures, 30_000, 0.001, 32, decay=0.05),
}


# ---------------------------------------------------------------- training
def trained(name: str) -> tuple[nn.Module, Path]:
    """The network in eval mode, and the file of its last checkpoint."""
    spec, last = ZOO[name], OUT / f"{name}.pt"
    torch.manual_seed(list(ZOO).index(name))
    model = spec.build()
    if not last.is_file():
        torch.save(_train(name, spec, model), last)
    model.load_state_dict(torch.load(last)["model"])
    return model.eval(), last


def kept_at(steps: int) -> dict[int, list[str]]:
    """Step -> endings of the folders whose series of checkpoints has one there: "" for the whole training, "-late" for its end.

    Example:
        >>> {step: kept for step, kept in kept_at(3000).items() if step > 2960}
        {3000: ['', '-late'], 2967: ['-late']}
    """
    found: dict[int, list[str]] = {}
    for ending, distance in (("", steps // KEPT), ("-late", LATE // KEPT)):
        for back in range(KEPT):
            found.setdefault(steps - back * distance, []).append(ending)
    return found


def _train(name: str, spec: Network, model: nn.Module) -> dict[str, Any]:
    """Train, keep checkpoints and the trajectory of the last steps; returns the last checkpoint."""
    for ending in ("", "-late"):
        (OUT / f"{name}{ending}").mkdir(parents=True, exist_ok=True)
    x, y = spec.data("train", spec.images)
    optimizer, kept = spec.optimizer(model), kept_at(spec.steps)
    recorder = record(model, TrajectoryWriter(learning_rate=spec.rate / 10, batch_size=spec.batch))
    start, checkpoint, loss = time.process_time(), {}, torch.zeros(())
    model.train()
    for step in range(1, spec.steps + 1):
        if step == spec.steps - LATE + 1:
            optimizer.param_groups[0]["lr"] = spec.rate / 10
            recorder.attach(optimizer)
        some = torch.randint(0, len(x), (spec.batch,))
        loss = functional.cross_entropy(model(moved(x[some])), y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for ending in kept.get(step, ()):
            checkpoint = {"model": model.state_dict(), "step": step, "batch_size": spec.batch}
            if step == spec.steps and not ending:
                checkpoint["optimizer"] = optimizer.state_dict()
            torch.save(checkpoint, OUT / f"{name}{ending}" / f"step_{step:05d}.pt")
    recorder.finish()
    recorder.writer.save(OUT / f"{name}.npz")
    print(f"{name}: {spec.steps} steps, {time.process_time() - start:.0f} s, loss {loss.item():.3f}", flush=True)
    return checkpoint | {"optimizer": optimizer.state_dict()}


def accuracy(name: str) -> float:
    """The accuracy on 2 000 test examples."""
    model, spec = trained(name)[0], ZOO[name]
    x, y = spec.data("test", 2000)
    with torch.no_grad():
        return float((torch.cat([model(part) for part in x.split(500)]).argmax(1) == y).float().mean())


def main() -> None:
    """Train the networks that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ZOO))
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        weights = sum(w.numel() for w in trained(name)[0].parameters())
        print(f"{name}: {weights} parameters, {100 * accuracy(name):.1f} % of 2 000 test examples", flush=True)


if __name__ == "__main__":
    main()
