"""Three speech networks with random, seeded weights: a recurrent speaker encoder, a dilated convolutional one, a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Batches = list[Tensor]


class SpeakerEncoder(nn.Module):
    """LSTM layers over mel frames `[n, T, 40]`; the last state, through a layer, becomes an embedding of length 1."""

    def __init__(self, width: int = 128, layers: int = 3) -> None:
        """Build the network."""
        super().__init__()
        self.lstm = nn.LSTM(40, width, layers, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings, `[n, width]`."""
        _, (state, _) = self.lstm(mels)
        embedding = torch.relu(self.linear(state[-1]))
        return embedding / torch.norm(embedding, dim=1, keepdim=True)


class _Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv1d(channels, channels // 4, 1), nn.Conv1d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.wide(torch.relu(self.narrow(x.mean(2, keepdim=True)))))


class _Res2Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, channels, 1)
        self.norm_first, self.norm_last = nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)
        quarter = channels // 4
        self.inner = nn.ModuleList([nn.Conv1d(quarter, quarter, 3, padding=dilation, dilation=dilation) for _ in range(3)])
        self.squeeze = _Squeeze(channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, *quarters = self.norm_first(torch.relu(self.first(x))).chunk(4, 1)
        done, before = [kept], torch.zeros_like(kept)
        for layer, quarter in zip(self.inner, quarters, strict=True):
            before = torch.relu(layer(quarter + before))
            done.append(before)
        return x + self.squeeze(self.norm_last(torch.relu(self.last(torch.cat(done, 1)))))


class Ecapa(nn.Module):
    """A speaker encoder as ECAPA-TDNN: dilated convolutions over mel frames `[n, T, 40]`, attentive statistics pooling."""

    def __init__(self, channels: int = 64) -> None:
        """Build the network."""
        super().__init__()
        self.front, self.norm = nn.Conv1d(40, channels, 5, padding=2), nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList([_Res2Block(channels, dilation) for dilation in (2, 3, 4)])
        wide = 3 * channels
        self.joined = nn.Conv1d(wide, wide, 1)
        self.attention = nn.Sequential(nn.Conv1d(wide, 32, 1), nn.Tanh(), nn.Conv1d(32, wide, 1))
        self.embedding = nn.Linear(2 * wide, 64)

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings, `[n, 64]`."""
        x, found = self.norm(torch.relu(self.front(mels.transpose(1, 2)))), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        x = torch.relu(self.joined(torch.cat(found, 1)))
        weights = torch.softmax(self.attention(x), 2)
        mean = (weights * x).sum(2)
        variance = (weights * x * x).sum(2) - mean * mean
        return self.embedding(torch.cat([mean, variance.clamp(min=1e-6).sqrt()], 1))


class Wav2Vec(nn.Module):
    """A recogniser as wav2vec 2.0: convolutions on the wave `[n, T]`, a weight-normalised position layer, a transformer."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        """Build the network."""
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv1d(1, width, 10, 5, bias=False), nn.GroupNorm(width, width), nn.GELU()),
            *(nn.Conv1d(width, width, 3, 2, bias=False), nn.GELU()),
            *(nn.Conv1d(width, width, 3, 2, bias=False), nn.GELU()),
        )
        self.norm = nn.LayerNorm(width)
        self.positions = nn.utils.parametrizations.weight_norm(nn.Conv1d(width, width, 16, padding=8, groups=4), dim=2)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.letters = nn.Linear(width, 20)

    def forward(self, wave: Tensor) -> Tensor:
        """Logarithms of the probabilities of letters, `[n, frames, 20]`."""
        x = self.norm(self.features(wave[:, None]).transpose(1, 2))
        x = x + functional.gelu(self.positions(x.transpose(1, 2))[:, :, :-1].transpose(1, 2))
        return self.letters(self.encoder(x)).log_softmax(-1)


def speaker_encoder() -> tuple[nn.Module, Batches]:
    """The recurrent speaker encoder, and mel-like frames that change slowly."""
    torch.manual_seed(0)
    return SpeakerEncoder().eval(), [0.1 * torch.randn(16, length, 40).cumsum(1) for length in (60, 80, 100, 160)]


def ecapa() -> tuple[nn.Module, Batches]:
    """The convolutional speaker encoder, its BatchNorm statistics taken from random frames."""
    torch.manual_seed(0)
    net = Ecapa()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(32, 80, 40))
    return net.eval(), [torch.randn(16, length, 40) for length in (60, 80, 100)]


def wav2vec() -> tuple[nn.Module, Batches]:
    """The recogniser, and noise of two lengths."""
    torch.manual_seed(0)
    return Wav2Vec().eval(), [torch.randn(8, length) for length in (1600, 2400)]
