"""The networks of `benchmarks.theory`, trained on real data with the end of training recorded. Nothing of this is committed.

There are five families on images, speech and text. Learning rates, batch sizes and depths differ on purpose; none was tuned. The
last `STEPS` steps run at a constant learning rate, a tenth of the first one, and every fifth of them is recorded.

    DYNCOMPRESS_DATA=... python -m benchmarks.theory_zoo [--only NAME ...]      # trains the networks that out/theory lacks
"""

from __future__ import annotations

import argparse
import io
import time
import wave
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar_resnet import Block
from dyncompress.recording import TrajectoryWriter
from dyncompress.recording.torch_callback import record
from tests.data import cifar10, data_file, mnist, resnet20, resnet44

OUT = Path(__file__).parent.parent / "out" / "theory"
STEPS = 1000  # of the recorded phase
FAMILIES = ("perceptron", "plain", "residual", "speech", "text")
Split = tuple[Tensor, Tensor]


# ---------------------------------------------------------------- data
def pictures(split: str, n: int) -> Split:
    """CIFAR-10."""
    return cifar10(split, n)


def digits(split: str, n: int) -> Split:
    """MNIST, centred."""
    x, y = mnist(split, n)
    return (x - 0.13) / 0.31, y


@cache
def spoken(split: str, n: int) -> Split:
    """Spoken digits as log-magnitude spectrograms `[n, 64, 64]`, frequencies as channels; takes 0 to 4 are the test set."""
    waves, labels = [], []
    with zipfile.ZipFile(data_file("fsdd_wav.zip")) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".wav")):
            digit, _, take = Path(name).stem.split("_")
            if (int(take) < 5) != (split == "test"):
                continue
            with wave.open(io.BytesIO(archive.read(name))) as file:
                sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
            waves.append(torch.from_numpy(np.resize(np.pad(sound, (0, max(0, 8192 - len(sound)))), 8192)))
            labels.append(int(digit))
    loud = torch.stft(torch.stack(waves), 254, 128, window=torch.hann_window(254), return_complex=True).abs()[:, :64, :64]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:n]
    return ((loud + 1e-3).log()[order] + 4) / 2, torch.tensor(labels)[order]


@cache
def characters(split: str, n: int) -> Split:
    """Windows of 32 characters of Shakespeare and the next character; the last tenth of the text is the test set."""
    text = data_file("text/tinyshakespeare.txt").read_bytes()
    ids = torch.tensor(list(text))
    ids = torch.searchsorted(ids.unique(), ids)
    cut = int(0.9 * len(ids))
    part = ids[:cut] if split == "train" else ids[cut:]
    start = torch.randint(0, len(part) - 33, (n,), generator=torch.Generator().manual_seed(0))
    return part[start[:, None] + torch.arange(32)], part[start + 32]


# ---------------------------------------------------------------- networks
def perceptron(width: int, depth: int, norms: bool) -> nn.Module:
    """A perceptron of `depth` linear layers on MNIST."""
    parts: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, *[width] * (depth - 2)):
        parts += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norms else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def plain(channels: int, widths: tuple[int, ...], norms: bool) -> nn.Module:
    """A plain convolutional network that halves the resolution whenever the width grows."""
    parts: list[nn.Module] = []
    for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
        stride = 1 + (outputs > inputs)
        parts += [nn.Conv2d(inputs, outputs, 3, stride, 1), *([nn.BatchNorm2d(outputs)] if norms else []), nn.ReLU()]
        # without normalisation, torch's default initialisation is too small for a plain network
        nn.init.kaiming_normal_(parts[-3 if norms else -2].weight, nonlinearity="relu")
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def residual(channels: int, width: int, blocks: int) -> nn.Module:
    """A CIFAR ResNet of another width and depth."""
    stem = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stages = [
        Block(width * 2 ** max(stage - (i == 0), 0), width * 2**stage, 1 + (i == 0 and stage > 0))
        for stage in range(3)
        for i in range(blocks)
    ]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def listener(width: int, layers: int) -> nn.Module:
    """One-dimensional convolutions over time, with frequencies as channels."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Conv1d(64 if i == 0 else width, width, 5, 1 + i % 2, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 10))


class Reader(nn.Module):
    """A decoder-only transformer that scores the next character."""

    def __init__(self, width: int, depth: int, words: int = 65, length: int = 32) -> None:
        """Build `depth` blocks."""
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(ReaderBlock(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:
        """Characters `[n, length]` -> scores `[n, words]` of the next character."""
        x = self.words(tokens) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -1]))


class ReaderBlock(nn.Module):
    """A transformer block: attention with four heads, then two linear layers."""

    def __init__(self, width: int) -> None:
        """Build the block."""
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, length, width]` -> the same."""
        h = self.first(x)
        q, k, v = (layer(h).reshape(len(x), x.shape[1], 4, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.down(functional.gelu(self.up(self.second(x))))


@dataclass(frozen=True)
class Network:
    """How one network is made.

    Attributes:
        family: one of `FAMILIES`.
        build: makes the module with random weights, or a pretrained one if `epochs` is 0.
        data: (split, n) -> inputs and labels.
        images: training examples used.
        rate, batch, epochs: of SGD with momentum 0.9 (AdamW for text).
    """

    family: str
    build: Callable[[], nn.Module]
    data: Callable[[str, int], Split]
    images: int = 0
    rate: float = 0.05
    batch: int = 64
    epochs: int = 0


ZOO = {
    "perceptron-6": Network("perceptron", lambda: perceptron(256, 6, norms=False), digits, 60_000, 0.05, 64, 6),
    "perceptron-9-norm": Network("perceptron", lambda: perceptron(128, 9, norms=True), digits, 60_000, 0.1, 128, 8),
    "plain-digits": Network("plain", lambda: plain(1, (8, 8, 16, 16, 16, 32, 32, 32), norms=False), digits, 30_000, 0.03, 32, 4),
    "plain-norm": Network("plain", lambda: plain(3, (16, *[32] * 3, *[64] * 4), norms=True), pictures, 30_000, 0.1, 128, 12),
    "plain": Network("plain", lambda: plain(3, (24, 32, 32, 32, 48, 48, 48), norms=False), pictures, 30_000, 0.02, 32, 8),
    "residual-14-digits": Network("residual", lambda: residual(1, 8, 2), digits, 20_000, 0.1, 64, 5),
    "residual-8": Network("residual", lambda: residual(3, 16, 1), pictures, 30_000, 0.1, 128, 9),
    "residual-20-narrow": Network("residual", lambda: residual(3, 8, 3), pictures, 30_000, 0.05, 64, 7),
    "listener-8": Network("speech", lambda: listener(64, 8), spoken, 2700, 0.05, 32, 40),
    "listener-12": Network("speech", lambda: listener(32, 12), spoken, 2700, 0.1, 64, 60),
    "reader-4": Network("text", lambda: Reader(64, 4), characters, 200_000, 0.002, 64, 2),
    "resnet20": Network("residual", resnet20, pictures),
    "resnet44": Network("residual", resnet44, pictures),
}


# ---------------------------------------------------------------- training
def trained(name: str) -> tuple[nn.Module, Path | None]:
    """The network in eval mode, and the file of its recorded trajectory (None for a pretrained network)."""
    spec, weights, run = ZOO[name], OUT / f"{name}.pt", OUT / f"{name}.npz"
    torch.manual_seed(list(ZOO).index(name))
    model = spec.build()
    if not spec.epochs:
        return model.eval(), None
    if not weights.is_file():
        _train(name, spec, model, run)
        torch.save(model.state_dict(), weights)
    model.load_state_dict(torch.load(weights))
    return model.eval(), run


def _train(name: str, spec: Network, model: nn.Module, run: Path) -> None:
    """Train by SGD; the last steps have a tenth of the learning rate and are recorded."""
    OUT.mkdir(parents=True, exist_ok=True)
    x, y = spec.data("train", spec.images)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=spec.rate, momentum=0.9, weight_decay=5e-4)
    if spec.family == "text":
        optimizer = torch.optim.AdamW(model.parameters(), lr=spec.rate)
    steps, start = spec.epochs * len(x) // spec.batch, time.process_time()
    recorder = record(model, TrajectoryWriter(learning_rate=spec.rate / 10, batch_size=spec.batch))
    model.train()
    for step in range(max(steps, 2 * STEPS)):
        late = step >= max(steps, 2 * STEPS) - STEPS
        optimizer.param_groups[0]["lr"] = spec.rate / 10 if late else spec.rate
        some = torch.randint(0, len(x), (spec.batch,))
        loss = functional.cross_entropy(model(moved(x[some])), y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if late:
            recorder.step(loss)
    recorder.finish()
    recorder.writer.save(run)
    print(f"{name}: {steps} steps, {time.process_time() - start:.0f} s", flush=True)


def moved(x: Tensor) -> Tensor:
    """Augment colour images by random flips and shifts; return other inputs unchanged."""
    if x.ndim != 4 or x.shape[1] != 3:
        return x
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    down, right = torch.randint(-3, 4, (2,)).tolist()
    return x.roll((down, right), (2, 3))


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
    for name in parser.parse_args().only:
        weights = sum(w.numel() for w in trained(name)[0].parameters())
        print(f"{name}: {weights} parameters, {100 * accuracy(name):.1f} % of 2 000 test examples", flush=True)


if __name__ == "__main__":
    main()
