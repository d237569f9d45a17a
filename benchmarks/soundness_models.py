"""All networks of `benchmarks.soundness` by name: small ones of `benchmarks.zoo`, `soundness_heads` and `soundness_nets`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from benchmarks.soundness_heads import HEADS
from benchmarks.soundness_nets import NETS
from benchmarks.soundness_subject import Draw, Subject
from benchmarks.zoo import ZOO, build

# Networks of the zoo; the others take half a minute for each cell.
SMALL = (
    "inception",
    "densenet",
    "keyword_spotter",
    "unet",
    "autoencoder",
    "gru",
    "tcn",
    "mixer",
    "torch_transformer",
    "resnet_bottleneck",
    "regnet",
    "convnext",
    "swin",
    "vit",
    "bert",
    "gpt2",
    "llama",
)


def _law(example: dict[str, Tensor]) -> Draw:
    """Inputs like an example of the zoo: normal floats, uniform words, and attention masks that hide up to half."""

    def draw(n: int, generator: Generator) -> dict[str, Tensor]:
        found = {}
        for name, value in example.items():
            shape = (n, *value.shape[1:])
            if value.is_floating_point():
                found[name] = torch.randn(shape, generator=generator)
            elif name == "attention_mask":
                least = torch.randint(shape[1] // 2, shape[1] + 1, (n, 1), generator=generator)
                found[name] = (torch.arange(shape[1])[None] < least).long()
            else:
                found[name] = torch.randint(0, 100, shape, generator=generator)
        return found

    return draw


def _of_zoo(name: str) -> Callable[[], Subject]:
    def subject() -> Subject:
        module, example = build(name)
        return Subject(module, _law(example), n=64, keywords=type(module).__module__.startswith("transformers"))

    return subject


MODELS: dict[str, Callable[[], Subject]] = {**{name: _of_zoo(name) for name in SMALL if name in ZOO}, **HEADS, **NETS}


def subject(name: str) -> Subject:
    """A network by its name, with weights from a fixed seed; the global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = MODELS[name]()
        found.module.eval()
        return found
