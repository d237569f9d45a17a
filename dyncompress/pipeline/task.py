"""A task: the model, its data, the recipe and the target of one call, opened and checked once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dyncompress.errors import InvalidRequest, nearest
from dyncompress.models import load, open_model, preprocessing_warning
from dyncompress.models.data import as_batches, as_held_out, refuse_not_finite
from dyncompress.models.signature import resolve_inputs
from dyncompress.pipeline.capabilities import refuse_incapable
from dyncompress.pipeline.observed_model import FROM_DATA, ObservedModel, count_of, cropped, first_examples, form_of
from dyncompress.pipeline.recorded_run import RecordedRun, recorded_run
from dyncompress.pipeline.saved_run import SavedRun
from dyncompress.pipeline.without_data import changes, without_data
from dyncompress.recipe.recipe import Recipe
from dyncompress.types import (
    FLOAT_BITS,
    Batch,
    HeldOut,
    Model,
    Need,
    Observation,
    OutputMoments,
    Plan,
    Profile,
    Target,
)
from dyncompress.types.progress import SILENT, Progress

ASIDE = 256  # examples set aside from those that would be fitted on
MORE = 1024  # examples that are read, and set aside, beyond those that are fitted on


@dataclass(frozen=True)
class InputData:
    """The data that a verb was given beside the model.

    Attributes:
        calibration: any iterable of batches, or None.
        example: one batch in place of calibration data, or None.
        free_axes: input -> axes that may have any length in the file, beside the batch axis and those that have several lengths
            in the data.
        trajectory: what the model's training left behind, anything that `recorded_run` takes, or None.
    """

    calibration: Any = None
    example: Any = None
    free_axes: Mapping[str, Sequence[int]] | None = None
    trajectory: Any = None


@dataclass(frozen=True)
class Task:
    """The value that travels through the stages of one call.

    Attributes:
        source: the model adapter with its data.
        recipe, target: values.
        progress: receives the phases of the work.
    """

    source: ObservedModel
    recipe: Recipe
    target: Target
    progress: Progress = SILENT

    @property
    def model(self) -> Model:
        """The model adapter."""
        return self.source.model

    @property
    def batches(self) -> Sequence[Batch]:
        """Calibration batches, or one example batch."""
        return self.source.batches

    @property
    def aside(self) -> Sequence[Batch]:
        """Calibration batches that nothing is fitted on."""
        return self.source.aside

    @property
    def calibrated(self) -> bool:
        """Whether there are calibration data."""
        return self.source.calibrated

    @property
    def run(self) -> RecordedRun | SavedRun | None:
        """The recorded run that ends at the model's weights, if there is one."""
        return self.source.run

    @property
    def forward(self) -> Any:
        """The forward method of the module, whose parameters name the inputs."""
        return self.model.module.forward

    def observe(self, needs: Sequence[Need]) -> Iterator[tuple[str, Observation]]:
        """The observations that `needs` asks for, layer by layer; see `ObservedModel.observe`."""
        return self.source.observe(needs)

    def with_model(self, model: Model) -> Task:
        """The same task on another model."""
        return replace(self, source=self.source.with_model(model))


def open_task(model: Any, recipe: Recipe, target: Target, data: InputData, progress: Progress = SILENT) -> Task:
    """Open a model on its calibration data, or on one example; a task that is open keeps its model and its data.

    Args:
        model: a module, a model adapter, or an open task.
        recipe: says how many examples are read, and how many are fitted on.
        target: the target of the file.
        data: calibration data or an example, and what the training left behind; without calibration data and with that, the
            task's recipe is the part of the recipe that needs no data.
        progress: receives the phases of the work.

    Raises:
        InvalidRequest: there is neither, or the recipe observes calibration data and there are none, nor a training run.
        Unsupported: the model adapter lacks a capability that the recipe needs.
    """
    source = model.source if isinstance(model, Task) else _opened(model, recipe, data)
    task = with_run(Task(source, recipe, target, progress), data.trajectory)
    if not task.calibrated and task.run is not None and observes_data(recipe):
        notes = [note for note in changes(recipe) if note not in task.model.notes]
        noted = replace(task.source, model=task.model.with_notes(*notes))
        task = replace(task, source=noted, recipe=without_data(recipe))
    refuse_incapable(task.model, task.recipe)
    return task


def _opened(model: Any, recipe: Recipe, data: InputData) -> ObservedModel:
    """The adapter of a model, with the batches to fit on and those set aside."""
    calibrated = data.calibration is not None
    model = load(model)
    names, given = resolve_inputs(model, data.calibration if calibrated else data.example)
    if not calibrated and observes_data(recipe) and data.trajectory is None:
        raise InvalidRequest(
            f"recipe '{recipe.name}' observes calibration data; give calibration=batches, or trajectory=checkpoint to do without."
        )
    if given is None:
        raise InvalidRequest(
            "no input was given, and the library runs the model on one; give calibration=x, one batch is enough for this recipe."
        )
    batches = as_batches(given, names, examples_drawn(recipe), unchecked=True)
    adapter = _opened_on(model, batches, requested_free_axes(data.free_axes, batches[0]))
    warning = preprocessing_warning(model, batches) if calibrated else None
    adapter = adapter.with_notes(warning) if warning else adapter
    fitted, aside = set_aside(batches, recipe) if calibrated else (batches, ())
    fitted = sorted(fitted, key=lambda batch: -_examples_like(batch, fitted)) if any(adapter.free.values()) else fitted
    return ObservedModel(adapter, fitted, calibrated, recipe.seed, recipe.observed, aside=aside)


def with_held_out(
    model: Any, data: InputData, held_out: Any, recipe: Recipe
) -> tuple[InputData, Sequence[Batch] | None, HeldOut | None]:
    """The data of a task as batches, all calibration batches, and the held-out examples as a `HeldOut`.

    Args:
        model: a module or a model adapter.
        data: the data as the caller gave them.
        held_out: anything that `models.data.as_held_out` reads, or None; its first examples serve where there are no other data.
        recipe: says how many examples are read.

    Raises:
        InvalidRequest: an input that the model needs is missing.
    """
    names, calibration = resolve_inputs(load(model), data.calibration)
    batches = None if calibration is None else as_batches(calibration, names, examples_drawn(recipe), unchecked=True)
    held = None if held_out is None else held_out_of(model, held_out)
    return replace(data, calibration=batches, example=data.example if held is None else first_rows(held)), batches, held


def _opened_on(model: Any, batches: Sequence[Batch], free: Mapping[str, tuple[int, ...]]) -> Model:
    """The model, opened on the first batch and tried on one of every other form.

    Raises:
        InvalidRequest: a batch holds NaN or infinite values that the model can't handle, or lengths that it doesn't take.
    """
    odd = [(i, batch) for i, batch in enumerate(batches) if not _finite(batch)]
    try:
        adapter = open_model(model, first_examples(batches, 2)[0], batches[0])
    except InvalidRequest:
        _refuse_values(odd)  # values that aren't finite are the likelier reason
        raise
    for i, batch in odd:
        if not all(bool(value.isfinite().all()) for value in adapter.predict(batch) if value.is_floating_point()):
            _refuse_values([(i, batch)])
    first = batches[0]
    for i, batch in enumerate(batches):
        if form_of(batch) == form_of(first) or any(form_of(batch) == form_of(other) for other in batches[:i]):
            continue
        try:
            adapter.predict(first_examples([batch], 2)[0])
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
            adapter.predict(shorter)
        except InvalidRequest as error:
            forms = ", ".join(f"'{name}' {list(shorter[name].shape)}" for name in free)
            raise InvalidRequest(
                f"free_axes: the model doesn't run on inputs of another length ({forms}; {str(error).rstrip('.')}); leave the "
                "axes out, or make its forward method independent of that length."
            ) from error
    return adapter.with_free_axes({name: axes for name in first if (axes := _uneven(name, batches, free.get(name, ())))})


def requested_free_axes(free_axes: Mapping[str, Sequence[int]] | None, batch: Batch) -> dict[str, tuple[int, ...]]:
    """Input -> the axes that the user asked to be free, checked.

    Raises:
        InvalidRequest: no such input or axis.
    """
    checked = {}
    for name, axes in (free_axes or {}).items():
        if name not in batch:
            raise InvalidRequest(f"free_axes: the model has no input '{name}'{nearest(name, list(batch))}")
        last = batch[name].ndim - 1
        wrong = [axis for axis in axes if isinstance(axis, bool) or not isinstance(axis, int) or not 1 <= axis <= last]
        if wrong:
            raise InvalidRequest(
                f"free_axes: input '{name}' has axes 1 to {last} behind the batch axis, and {wrong[0]!r} isn't one of them."
            )
        checked[name] = tuple(sorted(set(axes)))
    return checked


def _uneven(name: str, batches: Sequence[Batch], asked: Sequence[int]) -> tuple[int, ...]:
    """The axes of an input that have several lengths, and those that were asked for."""
    shapes = {tuple(batch[name].shape[1:]) for batch in batches}
    return tuple(axis + 1 for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1 or axis + 1 in asked)


def _examples_like(batch: Batch, batches: Sequence[Batch]) -> int:
    """How many examples have this batch's shapes; methods that handle a single shape use that of the first batch."""
    return count_of([other for other in batches if form_of(other) == form_of(batch)])


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
    """The batches to fit on, and those to measure a file on, spread evenly over all examples.

    Examples beyond those that the recipe fits on are set aside; where the budget is a distortion, at least a quarter of all
    examples, or 256 if that is fewer.
    """
    n = count_of(batches)
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


def with_run(task: Task, trajectory: Any) -> Task:
    """The task with what its model's training left behind, or unchanged if that is None.

    Raises:
        InvalidRequest: it is another model's.
    """
    if trajectory is None:
        return task
    return replace(task, source=replace(task.source, run=recorded_run(trajectory, task.model)))


def refuse_other_weights(task: Task, made: Plan | Profile) -> None:
    """Refuse a plan or a profile that was made for other weights; one with an empty digest may be of any.

    Raises:
        InvalidRequest: names both digests.
    """
    digest, what = task.model.state_digest, "plan" if isinstance(made, Plan) else "profile"
    if made.digest and made.digest != digest:
        known = f"(digest {made.digest[:12]} against {digest[:12]})"
        again = "measure and allocate" if isinstance(made, Plan) else "measure"
        raise InvalidRequest(f"the {what} was made for other weights than the model's {known}; {again} again for this model.")


def observes_data(recipe: Recipe) -> bool:
    """Whether a recipe needs calibration data: for activation ranges, changes of structure, distillation, or one of its tools."""
    tools = [tool for tool in (recipe.pruner, recipe.quantizer, *recipe.measures.values()) if tool is not None]
    reads = any(isinstance(need, (*FROM_DATA, OutputMoments)) for tool in tools for need in tool.needs)
    changes = bool(recipe.keeps) or recipe.blocks or recipe.distill.weight_epochs > 0
    return reads or changes or recipe.activation_bits != FLOAT_BITS


def held_out_of(model: Any, data: Any) -> HeldOut:
    """Held-out examples as this model's inputs, labels and groups."""
    names, data = resolve_inputs(load(model), data)
    return as_held_out(data, names, unchecked=True)


def first_rows(held_out: HeldOut) -> dict[str, Any]:
    """The first two held-out examples, as a batch to open a model with."""
    return {name: value[:2] for name, value in held_out.inputs.items()}
