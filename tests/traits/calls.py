# pyright: reportIncompatibleMethodOverride=false
"""Layers called by keyword, with more than one argument, or through functions; layers that compute their own weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.traits.subject import Subject, ids, images, randn, seeded


class Up(nn.Module):
    """A transposed convolution called with its output size."""

    def __init__(self) -> None:
        super().__init__()
        self.d, self.u, self.o = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 16, 3, 2, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map, `[n, 4, h, w]`."""
        return self.o(self.u(self.d(x).relu(), [12, 12]).relu())


class UpByName(Up):
    """The same, by keyword."""

    def forward(self, x: Tensor) -> Tensor:
        """A map, `[n, 4, h, w]`."""
        return self.o(self.u(input=self.d(x).relu(), output_size=x.shape[2:]).relu())


class Gated(nn.Conv2d):
    """A partial convolution."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The convolution with masked input and output."""
        return super().forward(x * mask) * mask


class Scaled(nn.Linear):
    """A linear layer whose call has a second argument, a scale."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """The scaled output."""
        return super().forward(x) * scale


class Partial(nn.Module):
    """A partial convolution with its mask by position or by keyword."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.a, self.o, self.keyword = Gated(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), keyword

    def forward(self, x: Tensor) -> Tensor:
        """A map, `[n, 4, h, w]`."""
        mask = (x[:, :1] > 0).float()
        return self.o((self.a(x=x, mask=mask) if self.keyword else self.a(x, mask)).relu())


class Perceptron(nn.Module):
    """A perceptron whose layers are called by keyword, with a second argument, or through their weights."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a = Scaled(20, 64) if how in ("scale", "scale by keyword") else nn.Linear(20, 64)
        self.b, self.o, self.how = nn.Linear(64, 64), nn.Linear(64, 5), how

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        match self.how:
            case "keyword":
                y = self.b(input=self.a(input=x).relu())
            case "scale":
                y = self.b(self.a(x, 0.5).relu())
            case "scale by keyword":
                y = self.b(self.a(scale=0.5, x=x).relu())
            case "function":
                y = self.b(functional.linear(x, self.a.weight, self.a.bias).relu())
            case "twice":
                y = self.b(self.b(self.a(x).relu()).relu())
            case _:
                y = self.b(self.a(x).relu())
                y = y + self.b.forward(self.a(x))
        return self.o(y.relu())


class ConvNorm(nn.Conv2d):
    """A convolution that contains its own BatchNorm."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args, bias=False)
        self.bn = nn.BatchNorm2d(args[1])
        nn.init.uniform_(self.bn.running_mean, -1, 1)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)
        nn.init.uniform_(self.bn.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, BatchNorm and ReLU."""
        return self.bn(super().forward(x)).relu()


class Standardised(nn.Conv2d):
    """Weight standardisation: the weight is normalised in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with the normalised weight."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Equalised(nn.Linear):
    """Equalised learning rate: the weight is multiplied by a constant in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """The linear map with the scaled weight."""
        return functional.linear(x, self.weight * 3.0, self.bias)


class ScaledStd(nn.Conv2d):
    """Scaled weight standardisation with a gain that is a parameter, as in NFNets."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(args[1], 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution with the normalised weight."""
        size = self.weight[0].numel()
        weight = functional.batch_norm(
            self.weight.reshape(1, len(self.weight), -1), None, None, weight=self.gain.flatten() * size**-0.5, training=True
        )
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


def two(layer: type[nn.Module], norm: bool = False) -> nn.Module:
    """Two layers of one kind, a pooling and a linear layer."""
    between = [nn.GroupNorm(4, 16)] if norm else []
    return nn.Sequential(
        layer(3, 16, 3), *between, nn.ReLU(), layer(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )


class Keyword(nn.Module):
    """A model with keyword-only inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(20, 32), nn.Embedding(30, 32), nn.Linear(32, 5)

    def forward(self, *, features: Tensor, word: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        """Scores by name, `[n, 5]`."""
        return {"scores": self.o((self.a(features) + self.b(word)).relu() * scale)}


def perceptron(how: str) -> Subject:
    """A `Perceptron` whose first layer is called in this way."""
    return Subject(seeded(lambda: Perceptron(how)), lambda: randn(64, 20))


SUBJECTS = {
    "output_size": Subject(seeded(Up), images),
    "output_size by keyword": Subject(seeded(UpByName), images),
    "mask by position": Subject(seeded(lambda: Partial(False)), images),
    "mask by keyword": Subject(seeded(lambda: Partial(True)), images),
    **{
        f"linear layer, {how}": perceptron(how) for how in ("keyword", "scale", "scale by keyword", "function", "twice", "method")
    },
    "own BatchNorm": Subject(seeded(lambda: two(ConvNorm)), images),
    "weight standardisation": Subject(seeded(lambda: two(Standardised, norm=True)), images),
    "scaled weight standardisation": Subject(seeded(lambda: two(ScaledStd)), images),
    "equalised linear layers": Subject(
        seeded(lambda: nn.Sequential(Equalised(20, 64), nn.ReLU(), Equalised(64, 5))), lambda: randn(64, 20)
    ),
    "inputs by keyword only": Subject(seeded(Keyword), lambda: {"features": randn(64, 20), "word": ids(64)}),
}
