"""all-MiniLM-L6-v2 without a quarter or a half of its hidden units, its attention heads, or both.

After training, without labels and without a gradient, from 512 sentences of STS's training pairs that are in no dev pair. The
table shows Spearman's correlation on all dev pairs, in points, and in brackets the mean cosine of the dev sentences' embeddings
with the float network's. Three methods remove the same share of every layer:

- `ours`: backward elimination on the inputs that the smaller network leaves, and a least-squares refit of every later layer.
- `CORP`: units by their second moment times the squared norm of the columns that read them; ridge regression of the removed
  activations on the kept ones, on the original's inputs, folded into the layer that reads them. A head is scored and regressed
  as its outputs are. **Source**: CORP, arXiv 2602.05243, written here with this library's primitives; the paper treats queries
  and keys in a way of its own.
- `ranking alone`: the same units, and nothing makes up for them.
Run: `python -m benchmarks.pruned_transformer [--only '* | heads | *'] [--table]`
"""

from __future__ import annotations

import csv
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import dyncompress as dc
from benchmarks import cells
from benchmarks.gallery_tables import PRUNED, PRUNED_METHODS, PRUNED_PARTS, pruned_table
from benchmarks.gallery_text import minilm, sentence_batches
from benchmarks.judging import TARGET
from benchmarks.sentences import correlation
from dyncompress.models.torch.calling import temporary_hooks
from dyncompress.models.torch.model import TorchModel
from dyncompress.models.torch.opening import open_model
from dyncompress.pipeline.application.structured_pruning import DAMPING, restructure
from dyncompress.pipeline.observed_model import ObservedModel
from dyncompress.pipeline.task import Task
from dyncompress.pruning.channels import refit_columns
from dyncompress.recipe.toml_files import load_target
from dyncompress.types import CHANNELS, Batch, Bias, ChannelGroup, Choice, Edit, Keep, SetWeight, Weight
from tests.data import data_file

SENTENCES = 512
KEYS = ["float", *(f"{method} | {part} | {share} %" for share in (25, 50) for part in PRUNED_PARTS for method in PRUNED_METHODS)]


@dataclass(frozen=True)
class Moments:
    """Of one layer's inputs over all positions: E[x x^T] `[K, K]` and E[x] `[K]`, float64."""

    second: Tensor
    mean: Tensor

    @property
    def centred(self) -> Tensor:
        """The covariance, `[K, K]`."""
        return self.second - torch.outer(self.mean, self.mean)


def sentences_of(split: str) -> list[str]:
    """All sentences of a split of STS, each once."""
    with data_file(f"text/stsb_en_{split}.csv").open(encoding="utf-8", newline="") as file:
        return sorted({sentence for row in csv.reader(file) for sentence in row[:2]})


@functools.cache
def opened() -> tuple[TorchModel, list[Batch]]:
    """The float network, and the calibration sentences, a batch for each length."""
    others = sorted(set(sentences_of("train")) - set(sentences_of("dev")))
    chosen = np.random.default_rng(53).choice(len(others), SENTENCES, replace=False)
    batches = [inputs for _, inputs in sentence_batches(tuple(others[i] for i in chosen))]
    tensors = [{name: torch.from_numpy(value) for name, value in batch.items()} for batch in batches]
    return open_model(minilm(), tensors[0]), list(tensors)


def groups_of(part: str) -> list[ChannelGroup]:
    """The channel groups that are heads, hidden units, or both."""
    return [group for group in opened()[0].channel_groups() if ("heads" if group.rows else "units") in part]


def ours(groups: Sequence[ChannelGroup], keep: Mapping[str, int]) -> TorchModel:
    """The library's structured pruning."""
    model, batches = opened()
    task = Task(ObservedModel(model, batches, True), dc.load_recipe("narrow"), load_target(TARGET))
    small, _ = restructure(task, {CHANNELS + group.name: Choice(keep=keep[group.name]) for group in groups})
    assert isinstance(small.model, TorchModel)
    return small.model


# ---------------------------------------------------------------- CORP
@functools.cache
def input_moments() -> dict[str, Moments]:
    """The moments of the inputs of every layer that reads channels, in the float network."""
    model, batches = opened()
    inputs: dict[str, list[Tensor]] = {name: [] for group in model.channel_groups() for name in group.consumers}

    def note(name: str, _layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name].append(args[0].flatten(0, -2))

    hooks = [model.module.get_submodule(n).register_forward_pre_hook(functools.partial(note, n)) for n in inputs]
    with temporary_hooks(hooks):
        for batch in batches:
            model.predict(batch)
    rows = {name: torch.cat(tensors).double() for name, tensors in inputs.items()}
    return {name: Moments(x.mT @ x / len(x), x.mean(0)) for name, x in rows.items()}


def corp(groups: Sequence[ChannelGroup], keep: Mapping[str, int], *, compensates: bool) -> TorchModel:
    """Ranking by second moment and column norm; and, where it compensates, ridge regression on the kept activations."""
    model, _ = opened()
    seen = dict(model.observe((Weight(), Bias())))
    edits: list[Edit] = []
    for group in groups:
        ((reader, n),) = group.consumers.items()
        moments, weight, bias = input_moments()[reader], seen[reader][Weight()].double(), seen[reader][Bias()].double()
        score = (moments.second.diagonal() * weight.square().sum(0)).view(group.size, n).sum(1)
        kept = sorted(score.topk(keep[group.name]).indices.tolist())
        columns = [channel * n + i for channel in kept for i in range(n)]
        if compensates:
            new = torch.zeros_like(weight)
            new[:, columns] = refit_columns(weight, moments.centred, columns, DAMPING)
            edits.append(SetWeight(reader, new.float(), (bias + (weight - new) @ moments.mean).float()))
        edits.append(Keep(group.name, tuple(kept)))
    return model.edited(edits)


# ---------------------------------------------------------------- cells
def cell_of(key: str) -> cells.Cell:
    """The correlation, the cosine with the float network, and what is left of the multiply-accumulates."""
    model, _ = opened()
    if key == "float":
        return {"spearman": float_embeddings()[0], "cosine": 1.0, "macs": 1.0}
    method, part, share = key.split(" | ")
    groups = groups_of(part)
    keep = {group.name: round(group.size * (1 - float(share.split()[0]) / 100)) for group in groups}
    input_moments()  # before the clock starts, as the groups are
    began = time.perf_counter()
    small = ours(groups, keep) if method == "ours" else corp(groups, keep, compensates=method == "CORP")
    seconds = time.perf_counter() - began
    spearman, embeddings = correlation_of(small)
    cosine = float((embeddings * float_embeddings()[1]).sum(1).mean())
    return {"spearman": spearman, "cosine": cosine, "macs": small.macs / model.macs, "seconds": seconds}


def correlation_of(model: TorchModel) -> tuple[float, np.ndarray]:
    """The correlation of all dev pairs, in points, and the embeddings of their sentences, of length 1."""
    found: list[np.ndarray] = []

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found.append(model.predict({name: torch.from_numpy(value) for name, value in inputs.items()})[0].numpy())
        return found[-1:]

    return correlation(run), np.concatenate(found)


@functools.cache
def float_embeddings() -> tuple[float, np.ndarray]:
    """The same of the float network."""
    return correlation_of(opened()[0])


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    return f"{key}: {cell['spearman']:.2f} points, cosine {cell['cosine']:.4f}, {cell['macs']:.0%} of the MACs"


if __name__ == "__main__":
    cells.script(__doc__, KEYS, PRUNED, cell_of, told, pruned_table)
