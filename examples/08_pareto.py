# %% [markdown]
# # A Pareto curve
#
# The model is measured once. From the profile come the plans of any number of budgets, in milliseconds each: how many bytes buy
# how little predicted distortion? Then one plan is chosen and carried out.

# %%
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)
TARGET = "onnxruntime-x86-vnni"

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
training, calibration, held_out = (x[:800], y[:800]), x[800:997], (x[997:], y[997:])

model = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
inputs, targets = torch.from_numpy(training[0]), torch.from_numpy(training[1])
for _ in range(8):
    for batch in torch.randperm(len(inputs)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
model = model.eval()

# %% [markdown]
# **Measure once**, with a recipe that offers widths of 8 to 2 bits and shares of zeros.

# %%
profile = dc.measure(model, "smallest", target=TARGET, calibration=calibration)

# %% [markdown]
# **All budgets.** `dc.pareto` returns the plans that no other plan beats. In a notebook, a cell that ends with `curve` shows
# them as a table and a drawing. Distortions are predicted; they help to choose and promise nothing.

# %%
curve = dc.pareto(profile)
print(f"float32: {profile.float_bytes:,} bytes")
for one in curve:
    bar = "#" * max(1, round(50 * one.bytes / curve[-1].bytes))
    print(f"{one.bytes:9,.0f} bytes  {one.distortion:9.2g} {curve.unit}  {bar}")

# %% [markdown]
# **Choose**: the smallest plan with at most 0.01 nats, and what it does to each layer.

# %%
chosen = min((one for one in curve if one.distortion <= 0.01), key=lambda one: one.bytes)
print(chosen.plan)

# %% [markdown]
# **Carry it out**, and certify what comes out.

# %%
file = dc.compress(model, "smallest", target=TARGET, calibration=calibration, held_out=held_out, plan=chosen.plan)
certificate = dc.verify(file)
before, after = (1 - certificate.counts[name] / certificate.n for name in ("original_errors", "file_errors"))
print(f"{chosen.bytes:,.0f} bytes predicted, {len(file.content):,} with the certificate's seal")
print(f"accuracy on {certificate.n} held-out images: {before:.2%} before, {after:.2%} after")
print(certificate)
