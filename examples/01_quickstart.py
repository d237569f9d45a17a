# %% [markdown]
# # Quickstart
#
# A small network learns the handwritten digits of scikit-learn. One call compresses it to an ONNX file with a certificate.

# %%
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# **Data.** The network is trained on 800 images. Compression observes 197 others, without their labels. The last 800 are held
# out: nothing reads them before the certificate is computed.

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
training, calibration, held_out = (x[:800], y[:800]), x[800:997], (x[997:], y[997:])

# %% [markdown]
# **Network.** Three convolutions with batch normalization, and a linear layer: 57 000 weights.


# %%
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.norm3 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(self.norm2(self.conv2(x)).relu(), 2)
        return self.head(self.norm3(self.conv3(x)).relu().mean((2, 3)))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
inputs, targets = torch.from_numpy(training[0]), torch.from_numpy(training[1])
for _ in range(8):
    for batch in torch.randperm(len(inputs)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
model = model.eval()

# %% [markdown]
# **Compress.** The recipe `edge-int8` rounds weights and activations to 8 bits. The model itself isn't changed.

# %%
file = dc.compress(model, "edge-int8", target="onnxruntime-x86-vnni", calibration=calibration, held_out=held_out)
print(file.plan)
size = len(file.content)
print(f"{file.float_bytes:,} bytes as float32, {size:,} bytes now: {file.float_bytes / size:.2f} times smaller")

# %% [markdown]
# **Certificate.** onnxruntime ran the file on the held-out images. The certificate bounds the increase of the error rate, not
# only on these images but on all that are drawn like them. `verify` checks the file's seal and computes the certificate again.

# %%
certificate = dc.verify(file, held_out=held_out)
before, after = (1 - certificate.counts[name] / certificate.n for name in ("original_errors", "file_errors"))
print(f"accuracy on {certificate.n} held-out images: {before:.2%} before, {after:.2%} after")
print(certificate)
