# %% [markdown]
# # The ONNX file
#
# What is in the file that `compress` writes, how to run it without dyncompress, and how to verify, pack and unpack it.

# %%
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn

import dyncompress as dc
from dyncompress.coding import pack, unpack

torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# A perceptron on the digits of scikit-learn, compressed by the recipe `edge-int4`. `keep_float` also keeps the model's float32
# file.

# %%
pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
x, y = (pixels[order] / 16).astype(np.float32), labels[order]
held_out = (x[997:], y[997:])

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
inputs, targets = torch.from_numpy(x[:800]), torch.from_numpy(y[:800])
for _ in range(40):
    for batch in torch.randperm(len(inputs)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()

file = dc.compress(
    model.eval(), "edge-int4", target="onnxruntime-x86-vnni", calibration=x[800:997], held_out=held_out, keep_float=True
)

# %% [markdown]
# **Save.** A folder gets the file, its certificate, the plan, the profile and a report. `small.onnx` would get the file and its
# certificate alone.

# %%
folder = tempfile.TemporaryDirectory()
path = file.save(folder.name)
print("saved:", ", ".join(sorted(entry.name for entry in Path(folder.name).iterdir())))

# %% [markdown]
# **Look inside.** Weights are stored as 4-bit integers with their scales. `DequantizeLinear` and `QuantizeLinear` mark where
# values are integers; onnxruntime fuses them with their neighbours into integer kernels. The seal is an entry of the metadata.

# %%
graph = onnx.load(path)
print("operators:", dict(sorted(Counter(node.op_type for node in graph.graph.node).items())))
for tensor in graph.graph.initializer:
    if len(tensor.dims) == 2:
        print(f"weight {list(tensor.dims)}: {onnx.TensorProto.DataType.Name(tensor.data_type)}")
print("metadata:", [entry.key for entry in graph.metadata_props])

# %% [markdown]
# **Run it** with onnxruntime alone. The batch axis takes any length.


# %%
def predict(content: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: held_out[0]})
    return np.asarray(scores).argmax(1)


before, after = predict(file.float_body), predict(path.read_bytes())
print(f"accuracy: {(before == held_out[1]).mean():.2%} in float32, {(after == held_out[1]).mean():.2%} now")

# %% [markdown]
# **Verify.** The seal names the digest of all other bytes: a file with one changed bit is refused.

# %%
print(dc.verify(path))
damaged = bytearray(path.read_bytes())
damaged[len(damaged) // 2] ^= 1
path.with_name("damaged.onnx").write_bytes(damaged)
try:
    dc.verify(path.with_name("damaged.onnx"))
except dc.Altered:
    print("damaged.onnx is refused: its digest isn't the one that the seal names")

# %% [markdown]
# **Pack.** An entropy coder makes the container that ships; on the device it is unpacked to the same bytes. From the shell:
# `dyncompress pack model.onnx` and `dyncompress unpack model.dync`.

# %%
container = pack(file.content)
print(f"float32 file {file.float_bytes:,} bytes, compressed file {len(file.content):,}, container {len(container):,}")
print("unpacks to the same bytes:", unpack(container) == file.content)
