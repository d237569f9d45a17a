"""A model and its data, opened and checked once, and what was observed of it, kept while it is small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest
from dyncompress.examples import as_batches
from dyncompress.models.torch import TorchModel, open_model, preprocessing_warning
from dyncompress.recipe import Recipe
from dyncompress.signature import filled
from dyncompress.types import Batch, HeldOut, InputMoment, Need, Observation, OutputFisher

KEEP_BYTES = 2**28  # observations up to this size stay in memory for the next step


@dataclass(frozen=True)
class Opened:
    """An opened model and its calibration batches.

    Attributes:
        door: the model.
        batches: calibration batches, or one example batch.
        calibrated: whether they are calibration data.
        notes: warnings.
        seed: of what observing draws at random.
        kept: layer -> its observation, where all of them are small.
    """

    door: TorchModel
    batches: Sequence[Batch]
    calibrated: bool
    notes: tuple[str, ...] = ()
    seed: int = 0
    kept: dict[str, Observation] = field(default_factory=dict, repr=False, compare=False)

    def observe(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """Layer by layer; nothing is computed twice while it fits in memory."""
        wanted = [n for n in needs if self.calibrated or not isinstance(n, InputMoment | OutputFisher)]
        data_needs = {n for n in wanted if isinstance(n, InputMoment | OutputFisher)}
        known = set().union(*(o.values.keys() for o in self.kept.values()))
        if self.kept and data_needs <= known and all(n in known for n in wanted):
            yield from self.kept.items()
            return
        self.kept.clear()
        size = 0
        for name, observation in self.door.observe(wanted, self.batches, self.seed):
            size += sum(v.numel() * v.element_size() for v in observation.values.values() if hasattr(v, "element_size"))
            self.kept[name] = observation
            yield name, observation
            if size > KEEP_BYTES:
                self.kept.clear()


def opened(model: Any, recipe: Recipe, calibration: Any, example: Any = None) -> Opened:
    """Open a model on its calibration data, or on one example.

    Raises:
        InvalidRequest: there are neither, or the recipe observes calibration data and there are none.
    """
    if calibration is None and example is None:
        filled(model, None)
        raise InvalidRequest("neither calibration data nor an example input was given; give calibration=batches or example=x.")
    names, data = filled(model, calibration if calibration is not None else example)
    batches = as_batches(data, names, recipe.calibration or 1)
    door = open_model(model, first_examples(batches, 2)[0])
    calibrated = calibration is not None and recipe.calibration > 0
    warning = preprocessing_warning(model, batches) if calibrated else None
    return Opened(door, batches, calibrated, (warning,) if warning else (), recipe.seed)


def first_examples(batches: Sequence[Batch], n: int) -> list[Batch]:
    """The first n examples, batch by batch."""
    found: list[Batch] = []
    for batch in batches:
        size = len(next(iter(batch.values())))
        found.append({name: value[:n] for name, value in batch.items()} if size > n else batch)
        n -= size
        if n <= 0:
            break
    return found


def outputs(door: TorchModel, batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """The outputs on all batches, numpy, each `[n, ...]`."""
    found = [[np.asarray(value.detach().cpu()) for value in door.predict(batch)] for batch in batches]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def first_rows(held_out: HeldOut) -> dict[str, Any]:
    """The first two held-out examples, as a batch to open a model with."""
    return {name: value[:2] for name, value in held_out.inputs.items()}
