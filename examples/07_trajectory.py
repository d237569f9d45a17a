# %% [markdown]
# # A recorded training run
#
# Late in training a weight moves with the noise of its gradient, and that noise is largest for the weights that the outputs
# depend on most. A record of the last epochs says which weights must be exact, so that compression needs no data.

# %%
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import dyncompress as dc
from dyncompress.recording.torch_callback import record

torch.manual_seed(0)
torch.set_num_threads(1)

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
training, held_out = (x[:997], y[:997]), (x[997:], y[997:])

model = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
)

# %% [markdown]
# **Record** the last six epochs, at the final, constant learning rate. Three lines do that: a writer, a recorder, and a call of
# `step` after every step of the optimizer.

# %%
EPOCHS, RECORDED, FAST, SLOW = 14, 6, 0.05, 0.005
writer = dc.TrajectoryWriter(learning_rate=SLOW, batch_size=32)
recorder = record(model, writer)
optimizer = torch.optim.SGD(model.parameters(), lr=FAST, momentum=0.9)
inputs, targets = torch.from_numpy(training[0]), torch.from_numpy(training[1])
for epoch in range(EPOCHS):
    late = epoch >= EPOCHS - RECORDED
    optimizer.param_groups[0]["lr"] = SLOW if late else FAST
    for batch in torch.randperm(len(inputs)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
        if late:
            recorder.step(loss.detach())
recorder.finish()
model, trajectory = model.eval(), writer.trajectory()
print(f"recorded: {len(trajectory.steps)} iterates of {len(trajectory.sketches)} layers")

# %% [markdown]
# **Compress** without data: one image of zeros gives the inputs' shape. Each channel gets a step size of its own, and the
# integers go through an entropy coder into a container, which unpacks to the ONNX file. Activations stay float, since ranges
# need data.

# %%
shape = np.zeros((1, 1, 8, 8), np.float32)
file = dc.compress(
    model, "trajectory", target="onnxruntime-x86-vnni", calibration=shape, trajectory=trajectory, held_out=held_out
)
size = len(file.packed)
print(f"float32 file {file.float_bytes:,} bytes, container {size:,}: {file.float_bytes / size:.1f} times smaller")

# %% [markdown]
# **Certify** that the answers stayed right: only this step uses data that the model wasn't trained on.

# %%
certificate = dc.verify(file)
before, after = (1 - certificate.counts[name] / certificate.n for name in ("original_errors", "file_errors"))
print(f"accuracy on {certificate.n} held-out images: {before:.2%} before, {after:.2%} after")
print(certificate)

# %% [markdown]
# **One model, one record.** The record ends with the digest of the final weights: a model with other weights refuses it.

# %%
with torch.no_grad():
    next(model.parameters()).add_(0.01)
try:
    dc.compress(model, "trajectory", target="onnxruntime-x86-vnni", calibration=shape, trajectory=trajectory)
except dc.InvalidRequest as error:
    print("refused:", str(error).split(" (")[0])
