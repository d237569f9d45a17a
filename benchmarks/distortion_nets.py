"""The networks of `benchmarks.distortion`: trained in seconds from fixed seeds, with examples of one distribution.

Networks are trained neither on calibration nor on fresh examples, so that memorised training images cannot make the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from benchmarks.soundness_nets import dead_layer, digits, digits_cnn, digits_mlp, edited, zero_head
from benchmarks.soundness_subject import trained
from benchmarks.theory_zoo import characters, spoken
from tests.data import cifar10, data_file, mnist, resnet20


@dataclass(frozen=True)
class Trained:
    """A network and its examples.

    Attributes:
        module: in eval mode.
        calibration: calibration examples `[n, ...]`.
        fresh: other examples of the same distribution.
        labels: labels of the fresh examples, or None.
        mirrored: whether calibration images may be flipped horizontally.
    """

    module: nn.Module
    calibration: Tensor
    fresh: Tensor
    labels: Tensor | None = None
    mirrored: bool = False


def _on_digits(build: Callable[..., nn.Module], **arguments: float) -> Callable[[], Trained]:
    """Trained on 500 of scikit-learn's digits, calibrated on 600 others, evaluated on the remaining 697."""

    def made() -> Trained:
        x, y = digits()
        return Trained(build(n=500, **arguments), x[500:1100], x[1100:], y[1100:])

    return made


def _on_mnist() -> Trained:
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 10))
    x, y = mnist("test", 4072)
    return Trained(trained(module, *mnist("train", 6000), epochs=3), x[:1024], x[1024:], y[1024:])


def _on_cifar() -> Trained:
    x, y = cifar10("test", 3072)
    return Trained(resnet20(), x[:1024], x[1024:], y[1024:], mirrored=True)


def _degenerate(edit: Callable[[nn.Sequential], None]) -> Callable[[], Trained]:
    def made() -> Trained:
        x = torch.randn(1512, 3, 16, 16, generator=Generator().manual_seed(3))
        return Trained(edited(edit)().module.eval(), x[:512], x[512:])

    return made


class Reader(nn.Module):
    """A transformer with one causal layer over characters; the scores come from the last position."""

    def __init__(self, classes: int, symbols: int = 65, length: int = 32, width: int = 48) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Parameter(0.1 * torch.randn(length, width))
        self.body = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        return self.head(self.body(self.symbols(ids) + self.places, src_mask=mask)[:, -1])


def _next_character() -> Trained:
    x, y = characters("test", 2536)
    return Trained(trained(Reader(65), *characters("train", 12_000), epochs=4), x[:512], x[512:], y[512:])


def _sources(n: int, share: slice, seed: int) -> tuple[Tensor, Tensor]:
    """Windows of 32 characters from a share of two texts of equal length (Shakespeare, Wikipedia), and the index of the text."""
    texts = [torch.tensor(list(data_file(f"text/{name}.txt").read_bytes())) for name in ("tinyshakespeare", "wikitext2_test")]
    known, length = texts[0].unique(), min(len(text) for text in texts)
    both = torch.stack([text[:length] for text in texts])[:, share].contiguous()
    both = torch.where(
        torch.isin(both, known), torch.searchsorted(known, both), len(known)
    )  # all other characters are one more symbol
    generator = Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=generator)
    start = torch.randint(0, both.shape[1] - 32, (n,), generator=generator)
    return both[y[:, None], start[:, None] + torch.arange(32)], y


def _which_text() -> Trained:
    x, y = _sources(2536, slice(800_000, None), 1)
    module = trained(Reader(2, symbols=66), *_sources(8000, slice(0, 800_000), 0), epochs=4)
    return Trained(module, x[:512], x[512:], y[512:])


def _spoken_digits() -> Trained:
    x, y = spoken("train", 2700)
    layers = [nn.Conv1d(64, 32, 5, 2, 2), nn.ReLU(), nn.Conv1d(32, 32, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    module = trained(nn.Sequential(*layers), x[:1300], y[:1300])
    return Trained(module, x[1300:1812], x[1812:], y[1812:])


def _regression() -> Trained:
    x = torch.rand(5000, 10, generator=Generator().manual_seed(4))
    y = (
        torch.sin(3 * x[:, :1] * x[:, 1:2]) + (x[:, 2:3] - 0.5) ** 2 * 4 + x[:, 3:4]
    ) * 10 + 50  # similar to Friedman's first function
    layers = [nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)]
    return Trained(trained(nn.Sequential(*layers), x[:2000], y[:2000], epochs=30), x[2000:2512], x[2512:])


NETS: dict[str, Callable[[], Trained]] = {
    "digits, convolutions": _on_digits(digits_cnn),
    "digits, perceptron": _on_digits(digits_mlp),
    "MNIST, convolutions": _on_mnist,
    "CIFAR-10, ResNet-20": _on_cifar,
    "digits, logits x20": _on_digits(digits_cnn, scale=20.0),
    "digits, logits x50": _on_digits(digits_cnn, scale=50.0),
    "zero head": _degenerate(zero_head),
    "dead layer": _degenerate(dead_layer),
    "text, which of two": _which_text,
    "text, next character": _next_character,
    "spoken digits": _spoken_digits,
    "regression": _regression,
}


def trained_net(name: str) -> Trained:
    """A network by its name; the global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETS[name]()
