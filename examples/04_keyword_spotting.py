# %% [markdown]
# # Keyword spotting
#
# A depthwise separable network for spoken digits, compressed to int8 and, for the way to the device, packed into a container.
#
# **Data.** The Free Spoken Digit Dataset (Jakobovski, CC BY-SA 4.0): 3 000 recordings by six speakers at 8 kHz. The script
# reads `fsdd_wav.zip` from the folder that the environment variable `DYNCOMPRESS_DATA` names. Without it, it makes synthetic
# tones.

# %%
import io
import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)
RATE, ARCHIVE = 8000, Path(os.environ.get("DYNCOMPRESS_DATA", ".")) / "fsdd_wav.zip"


def recordings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Waves of one second `[n, 8000]`, the digit of each `[n]`, and whether it is held out `[n]`: takes 0 to 9 of the 50."""
    waves, digits, held_out = [], [], []
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".wav")):
            digit, _speaker, take = Path(name).stem.split("_")
            with wave.open(io.BytesIO(archive.read(name))) as sound:
                samples = np.frombuffer(sound.readframes(RATE), np.int16).astype(np.float32) / 2**15
            waves.append(np.pad(samples, (0, RATE - len(samples))))
            digits.append(int(digit))
            held_out.append(int(take) < 10)
    return np.stack(waves), np.array(digits), np.array(held_out)


def tones(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In place of recordings: each digit is a pair of notes, one after the other, at a random pitch and time, under noise."""
    draw = np.random.default_rng(0)
    digits, time = draw.integers(0, 10, n), np.arange(RATE) / RATE
    first, second = 400 + 150 * (digits % 5), 500 + 700 * (digits // 5)
    pitch, start = draw.uniform(0.95, 1.05, n), draw.uniform(0.1, 0.4, n)
    note = np.where(time < start[:, None] + 0.25, (first * pitch)[:, None], (second * pitch)[:, None])
    loud = (time > start[:, None]) & (time < start[:, None] + 0.5)
    waves = loud * np.sin(2 * np.pi * note * time) * 0.3 + draw.normal(0, 0.3, (n, RATE))
    return waves.astype(np.float32), digits, np.arange(n) % 5 == 0


def features(waves: np.ndarray) -> np.ndarray:
    """Log power in 32 bands and 63 frames: `[n, 1, 32, 63]`."""
    spectrum = torch.stft(torch.from_numpy(waves), 256, 128, window=torch.hann_window(256), return_complex=True).abs()[:, :128]
    return (spectrum.square().unflatten(1, (32, 4)).mean(2) + 1e-3).log().unsqueeze(1).numpy() / 4


# %%
real = ARCHIVE.is_file()
waves, digits, aside = recordings() if real else tones()
print("data:", "recordings of spoken digits" if real else "synthetic tones, since DYNCOMPRESS_DATA has no fsdd_wav.zip")
x = features(waves)
order = np.random.default_rng(0).permutation(np.flatnonzero(~aside))
training, calibration, held_out = order[:-256], x[order[-256:]], (x[aside], digits[aside])


# %%
def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, its normalization and a ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


WIDTH = 48
model = nn.Sequential(
    convolution(1, WIDTH, 5, stride=2),
    *(nn.Sequential(convolution(WIDTH, WIDTH, 3, stride=s, groups=WIDTH), convolution(WIDTH, WIDTH, 1)) for s in (2, 1, 1, 1)),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)),
)
inputs, targets = torch.from_numpy(x[training]), torch.from_numpy(digits[training])
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=6 * -(-len(inputs) // 64))
for _ in range(6):
    for batch in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
        schedule.step()
model = model.eval()

# %% [markdown]
# **Compress.** The container is what travels to the device: `file.save("spotter.dync")` writes it, `runner.py` unpacks it
# there.

# %%
file = dc.compress(model, "packed", target="onnxruntime-x86-vnni", calibration=calibration, held_out=held_out)
print(f"float32 file {file.float_bytes:,} bytes, ONNX file {len(file.content):,}, container {len(file.packed):,}")
certificate = dc.verify(file)
before, after = (1 - certificate.counts[name] / certificate.n for name in ("original_errors", "file_errors"))
print(f"accuracy on {certificate.n} held-out recordings: {before:.2%} before, {after:.2%} after")
print(certificate)

# %% [markdown]
# **Whom this certificate speaks of.** The held-out recordings come from the speakers of the training data. "Drawn like the
# held-out ones" means other recordings of these six, not of anybody. For new speakers, hold out many speakers, and tell which
# recordings belong together: `held_out=(x, y, speakers)`. With six of them no such certificate would promise anything.
