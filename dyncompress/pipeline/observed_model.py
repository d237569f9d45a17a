"""A model adapter with the data that it is observed on, and a cache of small observations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dyncompress import deployment
from dyncompress.errors import Unsupported
from dyncompress.pipeline.pooled_fisher import pooled, unit_of
from dyncompress.pipeline.recorded_run import RecordedRun
from dyncompress.pipeline.saved_run import SavedRun
from dyncompress.pipeline.without_data import assumed_values
from dyncompress.types import (
    Array,
    Batch,
    HessianSpectrum,
    InputMoment,
    Model,
    Need,
    NoiseGain,
    Observation,
    OfTrajectories,
    OutputFisher,
    Shown,
    Weight,
)

FROM_DATA = (InputMoment, OutputFisher, NoiseGain, HessianSpectrum)
SHOWN_EXAMPLES = 256
KEEP_BYTES = 2**26  # observations up to this size stay in memory for the next step


class ObservationCache:
    """The observations of one model, kept between the steps of a task while all of them together are small.

    Attributes:
        observations: by layer.
        shown: the examples on which the stages of the work are compared with the model, once they were asked for.
        unit: what a run's Fisher information is multiplied by, once it was asked for.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.observations: dict[str, Observation] = {}
        self.shown: Shown | None = None
        self.unit: float | None = None

    def serves(self, needs: Sequence[Need]) -> bool:
        """Whether every layer was observed with all of these needs."""
        data_needs = {need for need in needs if isinstance(need, FROM_DATA)}
        known = set().union(*(o.values.keys() for o in self.observations.values()))
        return bool(self.observations) and data_needs <= known and all(need in known for need in needs)

    def filled(self, observations: Iterator[tuple[str, Observation]]) -> Iterator[tuple[str, Observation]]:
        """Pass the observations on, and keep them in place of the earlier ones if they take at most `KEEP_BYTES` together."""
        self.observations.clear()
        size, kept = 0, {}
        for name, observation in observations:
            size += sum(v.numel() * v.element_size() for v in observation.values.values() if hasattr(v, "element_size"))
            kept[name] = observation
            yield name, observation
            if size > KEEP_BYTES:
                kept.clear()
        if size <= KEEP_BYTES:
            self.observations.update(kept)


@dataclass(frozen=True)
class ObservedModel:
    """A model adapter and the batches that it is observed on.

    Attributes:
        model: the adapter.
        batches: calibration batches, or one example batch.
        calibrated: whether they are calibration data.
        seed: the seed of random draws while observing.
        observed: at most this many examples are observed; 0: all.
        run: the recorded run that ends at the model's weights, or None; what it recorded of a layer is part of every observation.
        aside: calibration batches that nothing is fitted on; a plan's divergence is measured on them.
        cache: observations of this model, shared by copies that hold the same one.
    """

    model: Model
    batches: Sequence[Batch]
    calibrated: bool
    seed: int = 0
    observed: int = 0
    run: RecordedRun | SavedRun | None = field(default=None, repr=False, compare=False)
    aside: Sequence[Batch] = field(default=(), repr=False, compare=False)
    cache: ObservationCache = field(default_factory=ObservationCache, repr=False, compare=False)

    def observe(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """The observations that `needs` asks for, layer by layer; those that fit in memory are computed once."""
        if self.run is None:
            yield from self._without_run(needs)
            return
        reads = any(isinstance(need, InputMoment | OutputFisher) for need in needs)
        unit = self._unit() if reads and self.calibrated else 1.0
        for name, known in self._beside_run(needs):
            if not reads:
                yield name, known
            elif self.calibrated:
                yield name, pooled(known, self._examples, unit)
            else:
                yield name, Observation(known.layer, {**known.values, **assumed_values(known)})

    def _beside_run(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """The observations, with what the training run says about each layer."""
        assert self.run is not None
        for name, observation in self._without_run(tuple({Weight(), *needs})):
            yield name, Observation(observation.layer, {**observation.values, **self.run.of(name, observation[Weight()])})

    def _unit(self) -> float:
        """What the run's Fisher information is multiplied by, to be in nats; computed once, in a pass over the layers."""
        assert self.run is not None
        if self.cache.unit is None:
            both = (InputMoment(), OutputFisher())
            self.cache.unit = 1.0 if self.run.nats else unit_of(known for _, known in self._beside_run(both))
        return self.cache.unit

    @property
    def _examples(self) -> int:
        """The number of examples that are observed."""
        return min(count_of(self.batches), self.observed or sys.maxsize)

    @property
    def pools(self) -> bool:
        """Whether Fisher information is that of calibration examples and of a training run together."""
        return self.run is not None and self.calibrated

    def _without_run(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """The observations of the model and its data, without the recorded run."""
        wanted = [n for n in needs if not isinstance(n, OfTrajectories) and (self.calibrated or not isinstance(n, FROM_DATA))]
        if self.cache.serves(wanted):
            yield from self.cache.observations.items()
            return
        batches = first_examples(self.batches, self.observed) if self.observed else self.batches
        yield from self.cache.filled(self.model.observe(wanted, batches, self.seed))

    def shown(self) -> Shown:
        """The examples on which the stages of the work are compared with the model that came in; it runs once."""
        if self.cache.shown is None:
            self.cache.shown = shown_to(self.model, [*self.aside, *self.batches])
        return self.cache.shown

    def with_model(self, model: Model) -> ObservedModel:
        """The same data with another model, of which nothing was observed yet."""
        return replace(self, model=model, cache=ObservationCache())


def shown_to(model: Model, batches: Sequence[Batch]) -> Shown:
    """The examples on which files are compared with a model: of every form, and of another length where axes are free."""
    examples = of_every_form(batches, SHOWN_EXAMPLES)
    examples += other_lengths(model, examples)
    return Shown(examples, originals(model, examples))


def originals(model: Model, batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """The outputs, numpy, of the model that came in on all batches, each `[n, ...]`.

    Raises:
        Unsupported: one has no batch axis in front.
    """
    return _concatenated(model.original, batches)


def other_lengths(model: Model, shown: Sequence[Batch]) -> list[Batch]:
    """A few examples, shorter along the axes that are to take any length, where the data have one length alone."""
    free = {name: axes for name, axes in model.free.items() if axes}
    several = any(batch[name].shape[1:] != shown[0][name].shape[1:] for batch in shown for name in free)
    return [cropped(first_examples(shown, 4)[0], free)] if free and not several else []


def first_examples(batches: Sequence[Batch], n: int) -> list[Batch]:
    """The first n examples, batch by batch."""
    examples: list[Batch] = []
    for batch in batches:
        size = len(next(iter(batch.values())))
        examples.append({name: value[:n] for name, value in batch.items()} if size > n else batch)
        n -= size
        if n <= 0:
            break
    return examples


def count_of(batches: Sequence[Batch]) -> int:
    """The number of examples."""
    return sum(len(next(iter(batch.values()))) for batch in batches)


def cropped(batch: Batch, free: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The examples cut to three quarters along their free axes, to two entries at least."""
    shorter = dict(batch)
    for name, axes in free.items():
        for axis in axes:
            size = shorter[name].shape[axis]
            length = max(size - max(size // 4, 1), min(size, 2))
            shorter[name] = shorter[name][(slice(None),) * axis + (slice(length),)]
    return shorter


def of_every_form(batches: Sequence[Batch], n: int) -> list[Batch]:
    """About n examples, the same number of every form, from the first batches on."""
    forms: dict[tuple, list[Batch]] = {}
    for batch in batches:
        forms.setdefault(form_of(batch), []).append(batch)
    return [batch for alike in forms.values() for batch in first_examples(alike, -(-n // len(forms)))]


def form_of(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """The shapes of one example."""
    return tuple(tuple(value.shape[1:]) for value in batch.values())


def outputs(model: Model, batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """The outputs on all batches, numpy, each `[n, ...]`.

    Raises:
        Unsupported: one has no batch axis in front.
    """
    return _concatenated(model.predict, batches)


def _concatenated(run: Callable[[Batch], Sequence[Array]], batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """What a model computes on all batches, numpy; see `outputs`."""
    by_batch = []
    for batch in batches:
        n = len(next(iter(batch.values())))
        by_batch.append([to_numpy(value) for value in run(batch)])
        for i, value in enumerate(by_batch[-1]):
            if value.ndim == 0 or len(value) != n:
                raise Unsupported(
                    f"output {i} of the model has shape {list(value.shape)} for {n} examples; wrap the model in a module "
                    "that returns outputs [n, ...] only, scores first."
                )
    return tuple(deployment.concatenate_batches(parts) for parts in zip(*by_batch, strict=True))


def as_numpy(batch: Batch) -> dict[str, np.ndarray]:
    """The same batch in numpy."""
    return {name: to_numpy(value) for name, value in batch.items()}


def to_numpy(value: Array) -> np.ndarray:
    """An array of any kind, on the CPU."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
