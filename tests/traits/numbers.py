"""Number types other than float32, and arrays with unusual memory layouts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tests.traits.subject import Subject, convolutions, images, perceptron, pixels, randn, seeded


class PartInHalf(nn.Module):
    """A model with one half-precision part between casts."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.b, self.c, self.kind = nn.Linear(20, 64), nn.Linear(64, 64).to(kind), nn.Linear(64, 5), kind

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.c(self.b(self.a(x).relu().to(self.kind)).float().relu())


class Doubled(nn.Module):
    """A model with a table of positions in float64, as numpy creates it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 5)
        self.register_buffer("table", torch.from_numpy(np.linspace(0, 1, 6 * 32).reshape(6, 32)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.b((self.a(x) + self.table.to(x.dtype)).relu().mean(1))


class OwnType(nn.Module):
    """A model whose forward method reads the type of its weights and normalises in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(20, 64), nn.LayerNorm(64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        y = self.a(x.to(self.a.weight.dtype))
        return self.b(nn.functional.layer_norm(y.float(), (64,)).to(y.dtype).relu())


class Bytes(nn.Module):
    """A model whose inputs are pixels from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()

    def forward(self, image: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.body(image.float() / 255)


def as_bytes() -> Tensor:
    """Images as uint8."""
    return (images().clamp(-2, 2) * 63 + 127).to(torch.uint8)


def turned() -> Tensor:
    """Images with channels last, as a view that is not contiguous."""
    return images().contiguous(memory_format=torch.channels_last)


def in_type(kind: torch.dtype) -> Subject:
    """A model and its calibration data in another type."""
    return Subject(seeded(lambda: perceptron().to(kind)), lambda: randn(64, 20).to(kind))


SUBJECTS = {
    "float16": in_type(torch.float16),
    "bfloat16": in_type(torch.bfloat16),
    "float64": in_type(torch.float64),
    "float16 convolutions": Subject(seeded(lambda: convolutions().half()), lambda: images().half()),
    "float16 weights, float32 data": Subject(seeded(lambda: perceptron().half()), lambda: randn(64, 20)),
    "float32 weights, float64 numpy data": Subject(seeded(perceptron), lambda: randn(64, 20).double().numpy()),
    "one part in float16": Subject(seeded(lambda: PartInHalf(torch.float16)), lambda: randn(64, 20)),
    "one part in bfloat16": Subject(seeded(lambda: PartInHalf(torch.bfloat16)), lambda: randn(64, 20)),
    "one part in float64": Subject(seeded(lambda: PartInHalf(torch.float64)), lambda: randn(64, 20)),
    "float64 buffer": Subject(seeded(Doubled), lambda: randn(64, 6, 8)),
    "bfloat16 that asks for its type": Subject(seeded(lambda: OwnType().bfloat16()), lambda: randn(64, 20).bfloat16()),
    "bytes in": Subject(seeded(Bytes), as_bytes),
    "negative strides": Subject(seeded(convolutions), lambda: pixels()[:, ::-1]),
    "negative strides, batches": Subject(seeded(convolutions), lambda: [pixels()[:32, :, ::-1], pixels()[32:, :, ::-1]]),
    "big-endian": Subject(seeded(convolutions), lambda: pixels().astype(">f4")),
    "big-endian float64, Fortran order": Subject(seeded(convolutions), lambda: np.asfortranarray(pixels().astype(">f8"))),
    "channels last": Subject(seeded(convolutions), turned),
    "expanded tensors": Subject(seeded(convolutions), lambda: images()[:, :1].expand(-1, 3, -1, -1)),
    "read-only array": Subject(
        seeded(convolutions), lambda: np.frombuffer(pixels().tobytes(), np.float32).reshape(64, 3, 12, 12)
    ),
}
