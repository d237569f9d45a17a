# %% [markdown]
# # A detector: several outputs and a risk of your own
#
# Detectors answer with several tensors. Each output of the compressed file is compared with the same output of the model, and
# the certificate takes any loss in [0, 1] that you define on the first output.

# %%
import numpy as np
import torch
from torch import Tensor, nn

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)
SIZE, CELLS = 32, 8  # pixels a side; the detector answers on a grid of 8 x 8 cells

# %% [markdown]
# **Data.** One bright rectangle under noise. A detector finds the cell of its center, and the rectangle's height and width.


# %%
def scenes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images `[n, 1, 32, 32]`, the number of the center's cell `[n]`, and height and width in pixels `[n, 2]`."""
    draw = np.random.default_rng(seed)
    sides = draw.integers(4, 13, (n, 2))
    corners = draw.integers(0, SIZE - sides + 1)
    images = draw.normal(0, 1.0, (n, 1, SIZE, SIZE)).astype(np.float32)
    for image, (top, left), (height, width) in zip(images, corners, sides, strict=True):
        image[0, top : top + height, left : left + width] += 1
    row, column = ((corners + sides // 2) * CELLS // SIZE).T
    return images, row * CELLS + column, sides.astype(np.float32)


# %% [markdown]
# **Network.** A backbone, and two heads of one convolution each. The answer is a dictionary of two tensors; the file has them
# in this order.


# %%
class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32)
        self.backbone = nn.Sequential()
        for i, (inputs, outputs, stride) in enumerate(zip(widths, widths[1:], (2, 2, 1), strict=False), 1):
            self.backbone.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 5, stride, padding=2, bias=False))
            self.backbone.add_module(f"norm{i}", nn.BatchNorm2d(outputs))
            self.backbone.add_module(f"relu{i}", nn.ReLU())
        self.center, self.size = nn.Conv2d(32, 1, 3, padding=1), nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.backbone(image)
        return {"center": self.center(found).flatten(1), "size": self.size(found)}


model = Detector()
images, cells, sides = map(torch.from_numpy, scenes(3000, seed=0))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=5 * 47)
for _ in range(5):
    for batch in torch.randperm(len(images)).split(64):
        answer = model(images[batch])
        size = answer["size"].flatten(2)[torch.arange(len(batch)), :, cells[batch]]
        loss = nn.functional.cross_entropy(answer["center"], cells[batch]) + nn.functional.l1_loss(size, sides[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
model = model.eval()

# %% [markdown]
# **Compress**, and compare output by output: the root mean square difference relative to the output's own, on calibration
# images.

# %%
file = dc.compress(model, "edge-int8", target="onnxruntime-x86-vnni", calibration=scenes(256, seed=1)[0])
size = len(file.content)
print(f"{file.float_bytes:,} bytes as float32, {size:,} bytes now: {file.float_bytes / size:.2f} times smaller")
for name, output in zip(("center", "size"), file.parity.outputs, strict=True):
    print(f"output {name}: relative error {output.relative_error:.3f}")

# %% [markdown]
# **Certify** with a loss for detectors: 1 where the found center lies more than a cell away from the true one.


# %%
def misplaced(center: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The loss of each image, from the file's first output and the label."""
    found = np.stack(np.divmod(center.argmax(1), CELLS))
    return (np.abs(found - np.stack(np.divmod(cell, CELLS))).max(0) > 1).astype(float)


held_out = scenes(2000, seed=2)[:2]
certified = dc.certify(file, reference=model, held_out=held_out, risk=misplaced)
certificate = dc.verify(certified)
print(certificate)
for line in certificate.lines:
    print(f"observed {line.quantity}: {line.point:.4f}")
