"""Networks of `benchmarks.soundness`: rare events, trained, confident and degenerate networks, sequences, structures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from benchmarks.soundness_subject import Draw, Subject, normal, rows, trained


# ---------------------------------------------------------------- rare events
def _loud(share: float, factor: float, channels: slice) -> Draw:
    """Draw images of small values; a share of them (at least one) has large values in some channels."""

    def draw(n: int, generator: Generator) -> dict[str, Tensor]:
        x = 0.1 * torch.randn(n, 3, 16, 16, generator=generator)
        x[: max(round(share * n), 1), channels] *= factor
        return {"x": x[torch.randperm(n, generator=generator)]}

    return draw


class Detector(nn.Module):
    """The largest score of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).amax((2, 3))


def _rare(factor: float, channels: slice = slice(None)) -> Callable[[], Subject]:
    """A network with rare inputs: 1 % of the calibration examples and 25 % of the new ones have large values."""
    return lambda: Subject(Detector(), _loud(0.01, factor, channels), _loud(0.25, factor, channels), 300, 128)


# ---------------------------------------------------------------- trained on scikit-learn's digits
@cache
def digits() -> tuple[Tensor, Tensor]:
    """1 797 images `[n, 1, 8, 8]` in a fixed random order, and their labels; the first 1 200 are for training."""
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(y), generator=Generator().manual_seed(0))
    return (x[order] / 16).float().view(-1, 1, 8, 8), y[order]


class Scaled(nn.Module):
    """A classifier whose logits are multiplied by a scale, which makes it confident."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.scale = body, 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale


class Argmax(nn.Module):
    """A classifier that returns the class as int64."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).argmax(1)


def digits_cnn(scale: float = 1.0, n: int = 1200) -> nn.Module:
    """A small convolutional network, trained on the first n images, with its logits multiplied by `scale`."""
    layers = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    module = trained(Scaled(nn.Sequential(*layers)), digits()[0][:n], digits()[1][:n])
    module.scale = scale
    return module


def digits_mlp(n: int = 1200) -> nn.Module:
    """A perceptron, trained on the first n images."""
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    return trained(Scaled(nn.Sequential(*layers)), digits()[0][:n], digits()[1][:n], epochs=15)


def on_digits(module: nn.Module) -> Subject:
    """Calibrate on 512 training images; evaluate on 512 images outside the training set."""
    x = digits()[0]
    return Subject(module.eval(), rows(x[:1200]), rows(x[1200:]), 512, 512)


# ---------------------------------------------------------------- degenerate
def _plain(width: int = 16) -> nn.Sequential:
    convolutions = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def edited(edit: Callable[[nn.Sequential], object]) -> Callable[[], Subject]:
    def subject() -> Subject:
        module = _plain()
        with torch.no_grad():
            edit(module)
        return Subject(module, normal(3, 16, 16, name="input"))

    return subject


def zero_head(module: nn.Sequential) -> None:
    module[-1].weight.zero_()
    module[-1].bias.zero_()


def dead_layer(module: nn.Sequential) -> None:
    module[2].weight.mul_(0.01)
    module[2].bias.fill_(-10.0)


def _outlier(module: nn.Sequential) -> None:
    module[0].weight[3] *= 1e4


def _duplicate(module: nn.Sequential) -> None:
    module[0].weight[1], module[0].bias[1] = module[0].weight[0], module[0].bias[0]
    module[-1].weight[1], module[-1].bias[1] = module[-1].weight[0], module[-1].bias[0]


def _constant(module: nn.Sequential) -> None:
    module[-1].weight[2].zero_()
    module[-1].bias[2] = 0.7


# ---------------------------------------------------------------- sequences
def audio() -> Subject:
    body = [nn.Conv1d(1, 16, 16, 8), nn.ReLU(), nn.Conv1d(16, 32, 8, 4), nn.BatchNorm1d(32), nn.ReLU()]
    return Subject(
        nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 10)), normal(1, 1024, name="input", scale=0.1)
    )


class Recurrent(nn.Module):
    """A bidirectional LSTM over embedded words, and a head on the mean of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(50, 16), nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0].mean(1))


def _words(length: int = 12, mask: bool = False) -> Draw:
    """Draw words from a vocabulary of 50; with `mask`, also which of them are present (at least the first three)."""

    def draw(n: int, generator: Generator) -> dict[str, Tensor]:
        ids = torch.randint(0, 50, (n, length), generator=generator)
        there = torch.arange(length)[None] < torch.randint(3, length + 1, (n, 1), generator=generator)
        return {"ids": ids, "there": there} if mask else {"ids": ids}

    return draw


class Attending(nn.Module):
    """Attention over embedded words: plain, with a padding mask, or causal with one output for each position."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Parameter(0.3 * torch.randn(12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.causal = nn.Linear(32, 50 if causal else 5), causal

    def forward(self, ids: Tensor, there: Tensor | None = None) -> Tensor:
        x = self.words(ids) + self.places
        if self.causal:
            return self.head(self.body(x, mask=torch.full((12, 12), float("-inf")).triu(1)))
        y = self.body(x, src_key_padding_mask=None if there is None else ~there)
        return self.head(y.mean(1) if there is None else (y * there[..., None]).sum(1) / there.sum(1, keepdim=True))


class Buffered(nn.Module):
    """Attention by torch's function, with a causal mask of 0 and minus infinity in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 96), nn.Linear(32, 5)
        self.register_buffer("mask", torch.full((12, 12), float("-inf")).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.project(x).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask)[:, -1])


class Bag(nn.Module):
    """The mean of embeddings, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.words(ids).mean(1))


# ---------------------------------------------------------------- structures
class Excited(nn.Module):
    """Squeeze and excitation around a depthwise convolution, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite, self.head = nn.Linear(24, 6), nn.Linear(6, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.stem(x))
        y = functional.hardswish(self.deep(x))
        gate = self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()
        return self.head((x + y * gate[:, :, None, None]).mean((2, 3)))


class Normed(nn.Module):
    """GroupNorm after convolutions, LayerNorm before a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 24, 3, 2, 1))
        self.head = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


IMAGES = normal(3, 16, 16)
NETS: dict[str, Callable[[], Subject]] = {
    "rare events x3": _rare(3.0),
    "rare events x10": _rare(10.0),
    "rare events x30": _rare(30.0),
    "rare events x10 in one channel": _rare(10.0, slice(0, 1)),
    "digits, convolutions": lambda: on_digits(digits_cnn()),
    "digits, perceptron": lambda: on_digits(digits_mlp()),
    "digits, logits x5": lambda: on_digits(digits_cnn(5.0)),
    "digits, logits x20": lambda: on_digits(digits_cnn(20.0)),
    "digits, logits x50": lambda: on_digits(digits_cnn(50.0)),
    "digits, logits x1000": lambda: on_digits(digits_cnn(1000.0)),
    "digits, argmax": lambda: on_digits(Argmax(digits_cnn())),
    "zero head": edited(zero_head),
    "dead layer": edited(dead_layer),
    "outlier channel": edited(_outlier),
    "duplicate channel": edited(_duplicate),
    "constant output": edited(_constant),
    "audio": audio,
    "LSTM": lambda: Subject(Recurrent(), _words()),
    "attention": lambda: Subject(Attending(), _words()),
    "attention, padding mask": lambda: Subject(Attending(), _words(mask=True)),
    "attention, causal": lambda: Subject(Attending(causal=True), _words()),
    "attention, mask as a buffer": lambda: Subject(Buffered(), normal(12, 8)),
    "bag of words": lambda: Subject(Bag(), _words()),
    "squeeze and excitation": lambda: Subject(Excited(), IMAGES),
    "GroupNorm and LayerNorm": lambda: Subject(Normed(), IMAGES),
}
