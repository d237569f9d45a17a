"""Axes of any length, and recurrent networks."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from tests.traits.attention import Slopes, Tokens
from tests.traits.subject import Subject, ids, randn, seeded


class Lines(nn.Module):
    """Convolutions over time with pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 32, 5, 2, 2), nn.ReLU())
        self.o = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(self.body(x).mean(-1))


class Frames(Lines):
    """A model with scores for every second time step."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, T / 2, 5]`."""
        return self.o(self.body(x).mT)


class Maps(nn.Module):
    """A fully convolutional network that returns a map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 4, h, w]`."""
        return self.body(x)


class Pooled(nn.Module):
    """Convolutions, global pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        )
        self.o = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(self.body(x).mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, cls: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.e, self.g = nn.Linear(8, 32), cls(32, 64, batch_first=True, **options)
        width = (self.g.proj_size or 64) * (2 if self.g.bidirectional else 1)
        self.o = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        return self.o(self.g(self.e(x))[0].mean(1))


class Cell(nn.Module):
    """A loop over a recurrent cell."""

    def __init__(self, cls: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.g, self.o = cls(8, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, `[n, 5]`."""
        h = c = x.new_zeros(x.shape[0], 64)
        for t in range(6):
            if isinstance(self.g, nn.LSTMCell):
                h, c = self.g(x[:, t], (h, c))
            else:
                h = self.g(x[:, t], h)
        return self.o(h)


class Words(nn.Module):
    """An embedding and an LSTM; most of the weights are recurrent."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.g, self.o = nn.Embedding(30, 32), nn.LSTM(32, 96, 2, batch_first=True), nn.Linear(96, 30)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next word, `[n, T, 30]`."""
        return self.o(self.g(self.table(tokens))[0])


def recurrent(cls: type[nn.RNNBase], **options: object) -> Subject:
    """Build a network around a recurrent layer."""
    return Subject(seeded(lambda: Recurrent(cls, **options)), lambda: randn(64, 6, 8))


def of_lengths(channels: int, *lengths: int) -> list[Tensor]:
    """Batches of several lengths; the last axis is time."""
    return [randn(16, channels, length, seed=length) for length in lengths]


SUBJECTS = {
    "several lengths": Subject(seeded(Lines), lambda: of_lengths(4, 20, 31, 40, 26), fresh=lambda: {"x": randn(4, 4, 57)}),
    "several lengths, frames out": Subject(
        seeded(Frames), lambda: of_lengths(4, 20, 32, 40), fresh=lambda: {"x": randn(4, 4, 58)}
    ),
    "several sizes, map out": Subject(
        seeded(Maps),
        lambda: [randn(16, 3, h, w) for h, w in ((12, 16), (16, 12), (20, 20))],
        fresh=lambda: {"x": randn(4, 3, 23, 31)},
    ),
    "several sizes, pooled": Subject(
        seeded(Pooled),
        lambda: [randn(16, 3, h, w) for h, w in ((12, 16), (16, 12), (20, 20))],
        fresh=lambda: {"x": randn(4, 3, 23, 31)},
    ),
    "several lengths, attention": Subject(
        seeded(Slopes), lambda: [randn(16, t, 8) for t in (5, 7, 9)], fresh=lambda: {"x": randn(4, 11, 8)}
    ),
    "several lengths, words": Subject(
        seeded(Tokens), lambda: [ids(16, t) for t in (5, 7, 9)], fresh=lambda: {"tokens": ids(4, 11)}
    ),
    "several lengths, recurrent": Subject(
        seeded(lambda: Recurrent(nn.LSTM)), lambda: [randn(16, t, 8) for t in (5, 7, 9)], fresh=lambda: {"x": randn(4, 11, 8)}
    ),
    "LSTM": recurrent(nn.LSTM),
    "LSTM, two layers": recurrent(nn.LSTM, num_layers=2),
    "LSTM, bidirectional": recurrent(nn.LSTM, bidirectional=True),
    "LSTM, projected": replace(recurrent(nn.LSTM, proj_size=16), refused="can't run the exported graph"),
    "GRU": recurrent(nn.GRU),
    "GRU, bidirectional, two layers": recurrent(nn.GRU, num_layers=2, bidirectional=True),
    "RNN": recurrent(nn.RNN),
    "LSTM cell": Subject(seeded(lambda: Cell(nn.LSTMCell)), lambda: randn(64, 6, 8)),
    "GRU cell": Subject(seeded(lambda: Cell(nn.GRUCell)), lambda: randn(64, 6, 8)),
    "words into an LSTM": Subject(seeded(Words), lambda: ids(64, 8)),
}
