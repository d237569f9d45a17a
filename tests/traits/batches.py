"""Models that fix their batch size, work on one example at a time, or have a state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.traits.subject import Subject, images, perceptron, randn, seeded


class Loop(nn.Module):
    """A model with a Python loop over the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(torch.stack([self.c(x).relu()[i].mean((1, 2)) for i in range(len(x))]))


class Counted(Loop):
    """A model that uses the batch size as a Python number."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(self.c(x).relu().reshape(int(x.shape[0]), 16, -1).sum(-1) / float(x[0, 0].numel()))


class Four(nn.Module):
    """A model for batches of four."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(20, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[4, 5]`."""
        return self.b(self.a(x).relu().view(4, 64))


class Squeezed(Loop):
    """A model that squeezes all axes of length 1, including a batch axis of one example."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(nn.functional.adaptive_avg_pool2d(self.c(x).relu(), 1).squeeze())


class Stream(nn.Module):
    """A recurrent network whose state has the size of one example."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.o = nn.GRU(4, 32, batch_first=True), nn.Linear(320, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[1, 5]`."""
        return self.o(self.g(x, torch.zeros(1, 1, 32))[0].reshape(1, -1))


class StreamConv(nn.Module):
    """A causal convolution over time that flattens the output of one example."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.o = nn.Conv1d(4, 32, 3), nn.Linear(32 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[1, 5]`."""
        return self.o(self.c(x).relu().view(1, -1))


class State(nn.Module):
    """One step of a recurrent network, with the state as input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.o = nn.GRUCell(8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Scores `[n, 5]`, and the next state `[n, 32]`."""
        state = self.g(x, state)
        return self.o(state), state


class Layered(nn.Module):
    """A state whose second axis is the batch, as in `nn.LSTM`."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.o = nn.LSTM(8, 32, 2, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[1, T, 5]` and the next state."""
        y, (h, c) = self.g(x, (h, c))
        return self.o(y), h, c


class Remembers(nn.Module):
    """A model with its state in a buffer, so that its answers depend on earlier calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 32), nn.Linear(32, 5)
        self.register_buffer("state", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        y = self.a(x).relu()
        self.state = 0.5 * self.state + 0.5 * y.mean(0)
        return self.o(y + self.state)


def ones() -> list[Tensor]:
    """Batches of one example."""
    return [randn(1, 10, 4, seed=i) for i in range(32)]


SUBJECTS = {
    "loop over examples": Subject(seeded(Loop), lambda: images()),
    "batch size as a number": Subject(seeded(Counted), images),
    "batches of four": Subject(seeded(Four), lambda: [randn(4, 20, seed=i) for i in range(16)]),
    "squeezed": Subject(seeded(Squeezed), images),
    "batch 1, recurrent": Subject(seeded(Stream), ones),
    "batch 1, convolution": Subject(seeded(StreamConv), lambda: [x.mT.contiguous() for x in ones()]),
    "a state in and out": Subject(seeded(State), lambda: {"x": randn(64, 8), "state": randn(64, 32, seed=2) / 4}),
    "a layered state at batch 1": Subject(
        seeded(Layered),
        lambda: [
            {"x": randn(1, 6, 8, seed=i), "h": randn(2, 1, 32, seed=i) / 4, "c": randn(2, 1, 32, seed=i) / 4} for i in range(32)
        ],
        refused="batch axis",
    ),
    "a state in a buffer": Subject(seeded(Remembers), lambda: randn(64, 8), refused="state"),
    "DataParallel": Subject(seeded(lambda: nn.DataParallel(perceptron())), lambda: randn(64, 20)),
}
