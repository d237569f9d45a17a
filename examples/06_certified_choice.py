# %% [markdown]
# # Certified choice
#
# "As small as it can be, if the error rate rises by at most three in a hundred": state the promise as `budget.risk_increase`,
# and the boldest plan that keeps it is chosen. The choice costs no confidence.

# %%
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# The digits of scikit-learn: 800 images for training, 197 for calibration, 800 held out.

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
# **The promise and the path.** The recipe `certified` lists budgets from cautious to bold. The path of their plans is fixed
# before the first held-out image is read. The plans are tried in this order; the first that can't be certified ends the search,
# and the one before it is returned (fixed-sequence testing).

# %%
recipe = dc.load_recipe("certified", {"budget.risk_increase": 0.03})
print("path, as shares of the float32 bytes:", ", ".join(f"{share:g}" for share in recipe.path))
file = dc.compress(model, recipe, target="onnxruntime-x86-vnni", calibration=calibration, held_out=held_out)

# %% [markdown]
# **What was chosen.** Each layer has its width in bits and its share of zeros.

# %%
print(file.plan)
size = len(file.content)
print(f"{file.float_bytes:,} bytes as float32, {size:,} bytes now: {file.float_bytes / size:.2f} times smaller")

# %% [markdown]
# **What is promised.** `verify` runs the file on the held-out images again; it raises `dc.NotCertified` where the promise
# fails.

# %%
certificate = dc.verify(file, held_out=held_out)
before, after = (1 - certificate.counts[name] / certificate.n for name in ("original_errors", "file_errors"))
print(f"accuracy on {certificate.n} held-out images: {before:.2%} before, {after:.2%} after")
print(certificate)
print("promise kept:", certificate.kept)

# %% [markdown]
# A promise that 800 images can't support isn't made: no file is returned.

# %%
try:
    dc.compress(
        model,
        dc.load_recipe("certified", {"budget.risk_increase": 0.001}),
        target="onnxruntime-x86-vnni",
        calibration=calibration,
        held_out=held_out,
    )
except (dc.NotCertified, dc.InvalidRequest) as error:
    print(f"{type(error).__name__}: {error}")
