"""Row of the gallery on speech: a keyword network for spoken digits, trained here, that takes samples.

Its front end is a part of the network: a convolution with fixed windowed cosines and sines gives a spectrum, a fixed matrix the
power in mel bands, and then comes the logarithm. Training takes less than a minute on one core, and has a fixed seed. The gallery
stores the float file and trains only where it isn't there.

The Free Spoken Digit Dataset has 50 takes of each digit by each of six speakers. Splits have different takes and the same
speakers: the accuracy, and a certificate, speak of other recordings of these speakers, and not of other people.
"""

from __future__ import annotations

import functools
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gallery_export import onnx_file
from benchmarks.gallery_row import Row, Run
from tests.data import data_file

RATE = 8_000  # hertz, and samples of a recording: shorter ones are padded with zeros, longer ones cut
WINDOW, HOP, BANDS = 256, 128, 40  # samples, samples, mel bands
FLOOR = 1e-3  # power that is added before the logarithm; that of speech goes up to 1000
TAKES = {"test": range(10), "held_out": range(10, 20), "calibration": range(20, 25), "training": range(25, 50)}
SAMPLES = "samples"
WIDTH, EPOCHS, BATCH, LEARNING_RATE = 48, 20, 64, 5e-3


# --- the network


def mel_bands(bands: int = BANDS, window: int = WINDOW, rate: int = RATE) -> np.ndarray:
    """Triangular filters at equal distances on the mel scale, `[bands, window / 2 + 1]`; the highest weight of each is 1.

    Example:
        >>> mel_bands().shape, float(mel_bands().min())
        ((40, 129), 0.0)
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    hertz = np.arange(window // 2 + 1) * rate / window
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    filters = np.minimum(rising, falling).clip(0)
    return filters / filters.max(axis=1, keepdims=True).clip(1e-9)


class LogMel(nn.Module):
    """The logarithm of the power of samples `[n, 8000]` in mel bands, `[n, 1, 40, frames]`; nothing in it is trained."""

    def __init__(self) -> None:
        """Set the fixed weights."""
        super().__init__()
        bins = WINDOW // 2 + 1
        turns = 2 * np.pi * np.outer(np.arange(bins), np.arange(WINDOW)) / WINDOW
        waves = np.concatenate([np.cos(turns), np.sin(turns)]) * np.hanning(WINDOW + 1)[:-1]
        self.spectrum = nn.Conv1d(1, 2 * bins, WINDOW, HOP, bias=False)
        self.bands = nn.Conv1d(bins, BANDS, 1, bias=False)
        self.spectrum.weight.data = torch.tensor(waves[:, None], dtype=torch.float32)
        self.bands.weight.data = torch.tensor(mel_bands()[:, :, None], dtype=torch.float32)
        self.requires_grad_(False)

    def forward(self, samples: Tensor) -> Tensor:
        """`[n, 8000]` -> `[n, 1, 40, 61]`."""
        real, imaginary = self.spectrum(samples.unsqueeze(1)).chunk(2, dim=1)
        return (self.bands(real * real + imaginary * imaginary) + FLOOR).log().unsqueeze(1)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, BatchNorm and a ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def classifier() -> nn.Sequential:
    """A network of depthwise separable convolutions with random weights: `[n, 1, 40, frames]` -> scores `[n, 10]`."""
    separable = [
        nn.Sequential(convolution(WIDTH, WIDTH, 3, stride, WIDTH), convolution(WIDTH, WIDTH, 1)) for stride in (2, 1, 1, 1)
    ]
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    return nn.Sequential(nn.BatchNorm2d(1), convolution(1, WIDTH, 5, stride=2), *separable, *last)


# --- recordings


@functools.cache
def recordings(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Recordings `[n, 8000]` in [-1, 1] and their digits `[n]` of `training`, `calibration`, `test` or `held_out`."""
    waves, digits = [], []
    with zipfile.ZipFile(data_file("fsdd_wav.zip")) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".wav")):
            digit, _, take = Path(name).stem.split("_")
            if int(take) in TAKES[split]:
                samples = wavfile.read(io.BytesIO(archive.read(name)))[1][:RATE].astype(np.float32) / 2**15
                waves.append(np.pad(samples, (0, RATE - len(samples))))
                digits.append(int(digit))
    return np.stack(waves), np.array(digits, np.int64)


def trained(waves: np.ndarray, digits: np.ndarray, epochs: int = EPOCHS) -> nn.Module:
    """The keyword network in eval mode, trained by Adam on recordings that are moved in time and varied in loudness.

    The global generator keeps its state.

    Args:
        waves: recordings, `[n, 8000]`.
        digits: their digits, `[n]`.
        epochs: of training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        front, net, sounds, targets = LogMel(), classifier().train(), torch.from_numpy(waves), torch.from_numpy(digits)
        steps = epochs * -(-len(sounds) // BATCH)
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(epochs):
            for places in torch.randperm(len(sounds)).split(BATCH):
                loudness = 10 ** (0.25 * torch.randn(len(places), 1))
                moved = torch.roll(sounds[places], int(torch.randint(-400, 401, ())), dims=1) * loudness
                loss = functional.cross_entropy(net(front(moved)), targets[places])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return nn.Sequential(front, net).eval()


def keyword_file() -> bytes:
    """Train the network and export it, for any number of recordings."""
    return onnx_file(trained(*recordings("training")), {SAMPLES: torch.zeros(2, RATE)}, "scores", {SAMPLES: {0: "n"}})


def digit_scores(run: Run) -> np.ndarray:
    """1 for each test recording whose digit is right, 0 for others, `[600]`."""
    waves, digits = recordings("test")
    return (run({SAMPLES: waves})[0].argmax(1) == digits).astype(np.float64)


ROWS: tuple[Row, ...] = (
    Row(
        name="keywords",
        kind="speech",
        made_by="a network with its log-mel front end, trained here on spoken digits, torch.onnx.export",
        metric="spoken digits that are right (speakers known, recordings new)",
        float_file=keyword_file,
        calibration=lambda: {SAMPLES: recordings("calibration")[0]},
        judge=digit_scores,
        example=lambda: {SAMPLES: recordings("test")[0][:1]},
        held_out=lambda: ({SAMPLES: recordings("held_out")[0]}, recordings("held_out")[1]),
        risk="zero_one",
    ),
)
