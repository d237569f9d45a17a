# %% [markdown]
# # A sentence encoder
#
# A small BERT, from a configuration of `transformers`, learns to give sentences of one topic similar embeddings. The file takes
# sentences of any length, and the certificate speaks of what embeddings are used for: finding the nearest topic.

# %%
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import dyncompress as dc

torch.manual_seed(0)
torch.set_num_threads(1)
TOPICS, VOCABULARY = 12, 200

# %% [markdown]
# **Data.** Each topic has words of its own; half of a sentence's words are drawn from them, the others from all. Sentences of 6
# to 16 words are filled up with token 0, and the mask tells words from filling.

# %%
own_words = np.random.default_rng(0).integers(1, VOCABULARY, (TOPICS, 12))


def sentences(n: int, seed: int, longest: int = 16) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The encoder's two inputs by name, each `[n, longest]`, and the topics `[n]`."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(0, TOPICS, n)
    special = own_words[topics[:, None], draw.integers(0, 12, (n, longest))]
    words = np.where(draw.random((n, longest)) < 1 / 2, special, draw.integers(1, VOCABULARY, (n, longest)))
    mask = np.arange(longest) < draw.integers(6, longest + 1, n)[:, None]
    return {"input_ids": np.where(mask, words, 0), "attention_mask": mask.astype(np.int64)}, topics


# %% [markdown]
# **Encoder.** BERT, the mean over the words, and a length of one. Training pulls sentences to their topic's direction.


# %%
class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(words.dtype)
        return nn.functional.normalize((words * weight).sum(1) / weight.sum(1), dim=1)


model, directions = Encoder().train(), nn.Parameter(torch.randn(TOPICS, 64) / 8)
optimizer = torch.optim.Adam([*model.parameters(), directions], lr=2e-3)
inputs, topics = sentences(4000, seed=1)
for _ in range(3):
    for batch in torch.randperm(len(topics)).split(64):
        embeddings = model(*(torch.from_numpy(value)[batch] for value in inputs.values()))
        loss = nn.functional.cross_entropy(10 * embeddings @ directions.T, torch.from_numpy(topics)[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model = model.eval()

# %% [markdown]
# **Compress.** Calibration data of several lengths leave the axis of words free: the file takes sentences of any length.

# %%
calibration = [sentences(64, seed=2 + longest, longest=longest)[0] for longest in (8, 12, 16, 24)]
file = dc.compress(model, "edge-int8", target="onnxruntime-x86-vnni", calibration=calibration)
print(f"{file.float_bytes:,} bytes as float32, {len(file.content):,} bytes now")
session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
long, _ = sentences(100, seed=99, longest=40)
with torch.no_grad():
    before = model(*map(torch.from_numpy, long.values())).numpy()
(after,) = session.run(None, long)
print(f"sentences of up to 40 words: mean cosine of the embeddings before and after {(before * after).sum(1).mean():.4f}")

# %% [markdown]
# **Certify** that the nearest topic is found as often as before, within what the certificate says.

# %%
reference = directions.detach().numpy()


def wrong_topic(embeddings: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """1 where another topic is nearer than the sentence's own."""
    return ((embeddings @ reference.T).argmax(1) != topics).astype(float)


inputs, topics = sentences(2000, seed=100)
certificate = dc.verify(dc.certify(file, reference=model, held_out={**inputs, "y": topics}, risk=wrong_topic))
print(certificate)
for line in certificate.lines:
    print(f"observed {line.quantity}: {line.point:.4f}")
