"""A model and its data, opened and checked once, and what was observed of it, kept while it is small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dyncompress import deployment
from dyncompress.errors import InvalidRequest, Unsupported, nearest
from dyncompress.models.data import as_batches, as_held_out, refuse_not_finite
from dyncompress.models.signature import refuse_other_form, resolve_inputs
from dyncompress.models.torch.model import TorchModel, open_model, preprocessing_warning
from dyncompress.pipeline.recorded_run import RecordedRun, recorded_run
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Batch,
    HeldOut,
    HessianSpectrum,
    InputMoment,
    Model,
    Need,
    NoiseGain,
    Observation,
    OfTrajectories,
    OutputFisher,
    OutputMoments,
    Plan,
    Profile,
    Trajectory,
    Weight,
)

FROM_DATA = (InputMoment, OutputFisher, NoiseGain, HessianSpectrum)
ASIDE = 256  # examples set aside of those that are fitted on
MORE = 1024  # examples that are read, and set aside, beyond those that are fitted on
KEEP_BYTES = 2**26  # observations up to this size stay in memory for the next step


@dataclass(frozen=True)
class Opened:
    """An opened model and its calibration batches.

    Attributes:
        door: the model.
        batches: calibration batches, or one example batch.
        calibrated: whether they are calibration data.
        seed: of what observing draws at random.
        observed: at most so many examples are observed; 0: all.
        kept: layer -> its observation, where all of them are small.
        run: the recorded run that the model ends, or None; what it tells of a layer is part of every observation.
        aside: calibration batches that nothing is fitted on; a plan's divergence is measured on them.
    """

    door: TorchModel
    batches: Sequence[Batch]
    calibrated: bool
    seed: int = 0
    observed: int = 0
    kept: dict[str, Observation] = field(default_factory=dict, repr=False, compare=False)
    run: RecordedRun | None = field(default=None, repr=False, compare=False)
    aside: Sequence[Batch] = field(default=(), repr=False, compare=False)

    @property
    def forward(self) -> Any:
        """The module's own: its parameters name the inputs."""
        return self.door.module.forward

    def observe(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """Layer by layer; nothing is computed twice while it fits in memory."""
        if self.run is None:
            yield from self._observed(needs)
            return
        for name, observation in self._observed(tuple({Weight(), *needs})):
            recorded = self.run.of(name, observation[Weight()])
            yield name, Observation(observation.layer, {**observation.values, **recorded})

    def _observed(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """What the model itself tells."""
        wanted = [n for n in needs if not isinstance(n, OfTrajectories) and (self.calibrated or not isinstance(n, FROM_DATA))]
        data_needs = {n for n in wanted if isinstance(n, FROM_DATA)}
        known = set().union(*(o.values.keys() for o in self.kept.values()))
        if self.kept and data_needs <= known and all(n in known for n in wanted):
            yield from self.kept.items()
            return
        self.kept.clear()
        size, found = 0, {}
        batches = first_examples(self.batches, self.observed) if self.observed else self.batches
        for name, observation in self.door.observe(wanted, batches, self.seed):
            size += sum(v.numel() * v.element_size() for v in observation.values.values() if hasattr(v, "element_size"))
            found[name] = observation
            yield name, observation
            if size > KEEP_BYTES:
                found.clear()
        if size <= KEEP_BYTES:
            self.kept.update(found)


def opened(
    model: Any, recipe: Recipe, calibration: Any, example: Any = None, free_axes: Mapping[str, Sequence[int]] | None = None
) -> Opened:
    """Open a model on its calibration data, or on one example; one that is open stays as it is.

    Args:
        model: a module.
        recipe: says how many examples are read, and how many are fitted on.
        calibration: data, or None.
        example: in place of calibration data.
        free_axes: input -> axes that may have any length in the file, beside the batch axis and those that have several lengths
            in the data.

    Raises:
        InvalidRequest: there are neither, or the recipe observes calibration data and there are none.
    """
    if isinstance(model, Opened):
        return model
    calibrated = calibration is not None
    names, data = resolve_inputs(model, calibration if calibrated else example)
    if not calibrated and observes_data(recipe):
        raise InvalidRequest(f"recipe '{recipe.name}' observes calibration data; give calibration=batches.")
    if data is None:
        raise InvalidRequest(
            "no input was given, and one tells what the model takes; give calibration=x, one batch is enough for this recipe."
        )
    batches = as_batches(data, names, examples_drawn(recipe), unchecked=True)
    door = _opened_on(model, batches, asked_free(free_axes, batches[0]))
    warning = preprocessing_warning(model, batches) if calibrated else None
    door = replace(door, notes=(*door.notes, warning)) if warning else door
    fitted, aside = set_aside(batches, recipe) if calibrated else (batches, ())
    fitted = sorted(fitted, key=lambda batch: -_examples_like(batch, fitted)) if any(door.free.values()) else fitted
    return Opened(door, fitted, calibrated, recipe.seed, recipe.observed, aside=aside)


def opened_with_held_out(
    model: Any,
    recipe: Recipe,
    calibration: Any,
    held_out: Any,
    free_axes: Mapping[str, Sequence[int]] | None,
    planned: bool,
) -> tuple[Opened, Sequence[Batch] | None, HeldOut | None]:
    """A model opened on its calibration data, all batches of these, and the held-out examples in the same form.

    Args:
        model, recipe, calibration, free_axes: as for `opened`.
        held_out: anything that `examples.as_held_out` reads, or None.
        planned: whether a plan says what is done, so that nothing has to be measured for the budget.

    Raises:
        InvalidRequest: there is nothing to open the model on, or nothing to measure the budget on, or the forms differ.
    """
    names, calibration = resolve_inputs(model, calibration)
    batches = None if calibration is None else as_batches(calibration, names, examples_drawn(recipe), unchecked=True)
    if batches is None and measures_distortion(recipe) and not planned:
        raise InvalidRequest("budget.distortion is measured on calibration data; give calibration=batches, or set budget.bytes.")
    held = None if held_out is None else held_out_of(model, held_out)
    start = opened(model, recipe, batches, None if held is None else first_rows(held), free_axes)
    if held is not None:
        refuse_other_form(held.inputs, start.batches[0], start.door.free)
    return start, batches, held


def _opened_on(model: Any, batches: Sequence[Batch], free: Mapping[str, tuple[int, ...]]) -> TorchModel:
    """The model, opened on the first batch and tried on one of every other form.

    Raises:
        InvalidRequest: a batch holds NaN or infinite values that the model makes no sense of, or lengths that it doesn't take.
    """
    odd = [(i, batch) for i, batch in enumerate(batches) if not _finite(batch)]
    try:
        door = open_model(model, first_examples(batches, 2)[0], batches[0])
    except InvalidRequest:
        _refuse_values(odd)  # the data are the likelier reason, where they hold some
        raise
    for i, batch in odd:
        if not all(bool(value.isfinite().all()) for value in door.predict(batch) if value.is_floating_point()):
            _refuse_values([(i, batch)])
    first = batches[0]
    for i, batch in enumerate(batches):
        if _form(batch) == _form(first) or any(_form(batch) == _form(other) for other in batches[:i]):
            continue
        try:
            door.predict(first_examples([batch], 2)[0])
        except InvalidRequest as error:
            name = next(name for name in batch if batch[name].shape[1:] != first[name].shape[1:])
            now, was = tuple(batch[name].shape[1:]), tuple(first[name].shape[1:])
            raise InvalidRequest(
                f"data, batch {i}: input '{name}' has shape {now} an example, the first batch had {was}, and the model doesn't "
                f"take both ({str(error).rstrip('.')}); pad or crop to one shape (a list is read as batches; inputs with "
                "labels are a tuple (x, y))."
            ) from error
    if any(free.values()):
        shorter = cropped(first_examples([first], 2)[0], free)
        try:
            door.predict(shorter)
        except InvalidRequest as error:
            forms = ", ".join(f"'{name}' {list(shorter[name].shape)}" for name in free)
            raise InvalidRequest(
                f"free_axes: the model doesn't run on inputs of another length ({forms}; {str(error).rstrip('.')}); leave the "
                "axes out, or make its forward method independent of that length."
            ) from error
    return replace(door, free={name: axes for name in first if (axes := _uneven(name, batches, free.get(name, ())))})


def asked_free(free_axes: Mapping[str, Sequence[int]] | None, batch: Batch) -> dict[str, tuple[int, ...]]:
    """Input -> the axes that a user wants free, checked.

    Raises:
        InvalidRequest: no such input or axis.
    """
    found = {}
    for name, axes in (free_axes or {}).items():
        if name not in batch:
            raise InvalidRequest(f"free_axes: the model has no input '{name}'{nearest(name, list(batch))}")
        last = batch[name].ndim - 1
        wrong = [axis for axis in axes if isinstance(axis, bool) or not isinstance(axis, int) or not 1 <= axis <= last]
        if wrong:
            raise InvalidRequest(
                f"free_axes: input '{name}' has axes 1 to {last} behind the batch axis, and {wrong[0]!r} isn't one of them."
            )
        found[name] = tuple(sorted(set(axes)))
    return found


def cropped(batch: Batch, free: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The examples cut to three quarters along their free axes, to two entries at least."""
    found = dict(batch)
    for name, axes in free.items():
        for axis in axes:
            size = found[name].shape[axis]
            length = max(size - max(size // 4, 1), min(size, 2))
            found[name] = found[name][(slice(None),) * axis + (slice(length),)]
    return found


def _uneven(name: str, batches: Sequence[Batch], asked: Sequence[int]) -> tuple[int, ...]:
    """The axes of an input that have several lengths, and those that were asked for."""
    shapes = {tuple(batch[name].shape[1:]) for batch in batches}
    return tuple(axis + 1 for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1 or axis + 1 in asked)


def _form(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """The shapes of one example."""
    return tuple(tuple(value.shape[1:]) for value in batch.values())


def _examples_like(batch: Batch, batches: Sequence[Batch]) -> int:
    """How many examples have this batch's shapes: methods that take one shape alone take the first batch's."""
    return sum(len(next(iter(other.values()))) for other in batches if _form(other) == _form(batch))


def of_every_form(batches: Sequence[Batch], n: int) -> list[Batch]:
    """About n examples, as many of every form as there are: the first ones, batch by batch."""
    forms: dict[tuple, list[Batch]] = {}
    for batch in batches:
        forms.setdefault(_form(batch), []).append(batch)
    return [batch for alike in forms.values() for batch in first_examples(alike, -(-n // len(forms)))]


def _finite(batch: Batch) -> bool:
    """Whether the batch holds neither NaN nor infinity."""
    return all(bool((value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)).all()) for value in batch.values())


def _refuse_values(odd: Sequence[tuple[int, Batch]]) -> None:
    """Refuse the first of these batches, which hold NaN or infinite values, if there is one."""
    for i, batch in odd:
        for name, value in batch.items():
            refuse_not_finite(value, f"data, batch {i}: input '{name}'")


def measures_distortion(recipe: Recipe) -> bool:
    """Whether the recipe's budget is a distortion, which is measured on examples that nothing is fitted on."""
    return recipe.budget.distortion is not None and recipe.budget.bytes is None and not recipe.path


def examples_drawn(recipe: Recipe) -> int:
    """How many calibration examples are read: those that are fitted on, and where there are more, some to set aside."""
    return recipe.calibration + (MORE if measures_distortion(recipe) else ASIDE)


def set_aside(batches: Sequence[Batch], recipe: Recipe) -> tuple[list[Batch], list[Batch]]:
    """The batches to fit on, and those that a file is measured on, evenly taken from all of them.

    What is beyond the examples that the recipe fits on is set aside; where the budget is a distortion a quarter at least, or 256.
    """
    n = sum(len(next(iter(batch.values()))) for batch in batches)
    count = max(n - recipe.calibration, min(ASIDE, n // 4) if measures_distortion(recipe) else 0)
    if n < 2 or not count:
        return list(batches), []
    chosen = np.zeros(n, dtype=bool)
    chosen[(np.arange(count) * n) // count] = True
    parts: tuple[list[Batch], list[Batch]] = ([], [])
    start = 0
    for batch in batches:
        mask = chosen[start : start + len(next(iter(batch.values())))]
        start += len(mask)
        for part, rows in zip(parts, (np.flatnonzero(~mask), np.flatnonzero(mask)), strict=True):
            if len(rows):
                part.append({name: value[rows] for name, value in batch.items()})
    return parts


def with_run(model: Opened, trajectory: Trajectory | str | Path | None) -> Opened:
    """The opened model with a recorded run beside it; as it is where none is given.

    Raises:
        InvalidRequest: the trajectory is another model's.
    """
    return model if trajectory is None else replace(model, run=recorded_run(trajectory, model.door))


def refuse_other_weights(model: Opened, made: Plan | Profile) -> None:
    """Refuse a plan or a profile that was made for other weights; one with an empty digest may be of any.

    Raises:
        InvalidRequest: tells both digests.
    """
    found, what = model.door.state_digest, "plan" if isinstance(made, Plan) else "profile"
    if made.digest and made.digest != found:
        known = f"(digest {made.digest[:12]} against {found[:12]})"
        again = "measure and allocate" if isinstance(made, Plan) else "measure"
        raise InvalidRequest(f"the {what} was made for other weights than the model's {known}; {again} again for this model.")


def observes_data(recipe: Recipe) -> bool:
    """Whether a recipe can't do without calibration data: ranges of activations, less structure, teaching, or a tool's needs."""
    tools = [tool for tool in (recipe.pruner, recipe.quantizer, *recipe.measures.values()) if tool is not None]
    reads = any(isinstance(need, (*FROM_DATA, OutputMoments)) for tool in tools for need in tool.needs)
    changes = bool(recipe.keeps) or recipe.blocks or recipe.distill.weight_epochs > 0
    return reads or changes or recipe.activation_bits != FLOAT_BITS


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


def outputs(door: Model, batches: Sequence[Batch]) -> tuple[np.ndarray, ...]:
    """The outputs on all batches, numpy, each `[n, ...]`.

    Raises:
        Unsupported: one has no batch axis in front.
    """
    found = []
    for batch in batches:
        n = len(next(iter(batch.values())))
        found.append([np.asarray(value.detach().cpu()) for value in door.predict(batch)])
        for i, value in enumerate(found[-1]):
            if value.ndim == 0 or len(value) != n:
                raise Unsupported(
                    f"output {i} of the model has shape {list(value.shape)} for {n} examples; wrap the model in a module "
                    "that returns outputs [n, ...] only, scores first."
                )
    return tuple(deployment.joined(parts) for parts in zip(*found, strict=True))


def held_out_of(model: Any, data: Any) -> HeldOut:
    """Held-out examples as this model's inputs, labels and groups."""
    names, data = resolve_inputs(model, data)
    return as_held_out(data, names, unchecked=True)


def first_rows(held_out: HeldOut) -> dict[str, Any]:
    """The first two held-out examples, as a batch to open a model with."""
    return {name: value[:2] for name, value in held_out.inputs.items()}
