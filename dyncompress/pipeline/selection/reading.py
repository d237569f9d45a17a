"""The values that measures read from one checkpoint: the network layer by layer, the recorded run as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest
from dyncompress.measures import whole_run
from dyncompress.measures.border import unusable
from dyncompress.models import open_model
from dyncompress.models.data import as_batches
from dyncompress.models.signature import resolve_inputs
from dyncompress.pipeline.observed_model import FROM_DATA, ObservedModel, first_examples
from dyncompress.pipeline.recorded_run import RecordedRun, recorded_run
from dyncompress.pipeline.saved_run import SavedRun
from dyncompress.pipeline.selection.prediction import of_network, prediction
from dyncompress.recording import load_trajectory, weights_digest
from dyncompress.types import (
    Estimate,
    ExampleLosses,
    Gradients,
    Iterates,
    Measure,
    Model,
    Need,
    OfTrajectories,
    OutputMoments,
    TrainingState,
    Trajectory,
    WeightFisher,
)

OF_RUN = (Iterates, ExampleLosses, Gradients)  # read off the whole run; the other values of a trajectory are read layer by layer
HOW = {
    Iterates: "its sketches",
    ExampleLosses: "losses of examples; record them with append(..., losses_per_example=...)",
    Gradients: "gradients; record them with record(..., gradients=True)",
}


@dataclass(frozen=True)
class Examples:
    """The data that networks are run on.

    Attributes:
        data: anything that `examples.as_batches` takes, readable more than once; None: no data.
        calibrated: whether it is calibration data, or only shows what networks take.
    """

    data: Any
    calibrated: bool


@dataclass(frozen=True)
class Checkpoint:
    """One trained network, what its training left behind, or both.

    Attributes:
        name: for messages.
        module: in torch, or None.
        run: a trajectory, or a training state in any form that `recorded_run` takes, or None.
        batch_size: of the training, where a training state doesn't say it; 0: unknown.
    """

    name: str
    module: Any
    run: Any
    batch_size: int = 0


def checkpoint(name: str, given: Any, batch_size: int = 0) -> Checkpoint:
    """What a user calls a checkpoint: a module, a trajectory or its path, or a pair (module, what its training left behind).

    Args:
        name: for messages.
        given: by the user; what the training left behind is a trajectory, or a training state.
        batch_size: of the training, if it is known.

    Raises:
        InvalidRequest: something else, a training state alone, or the trajectory is another module's.
    """
    module, run = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if run is None and (isinstance(module, Trajectory) or _is_path_or_state(module)):
        module, run = None, module
    if isinstance(run, str | Path) and Path(run).suffix == ".npz":
        run = load_trajectory(run)
    known = run is None or isinstance(run, Trajectory) or _is_path_or_state(run)
    if not (module is None or hasattr(module, "forward")) or not known or (module is None and run is None):
        raise InvalidRequest(
            f"checkpoint '{name}' is a {type(given).__name__}; give a torch module, a trajectory (or its .npz), or (module, "
            "trajectory), where the path of a checkpoint with the optimizer's state may stand for the trajectory."
        )
    if isinstance(run, Trajectory):
        if module is not None and weights_digest(_weights(module)) != run.digest:
            raise InvalidRequest(
                f"checkpoint '{name}': its trajectory ends at other weights than the module's; give the trajectory of this run."
            )
    elif run is not None and module is None:
        what = f"'{run}'" if isinstance(run, str | Path) else "the training state"
        raise InvalidRequest(
            f"checkpoint '{name}' is {what} alone, and only a trajectory (.npz) is read without its network; give (module, "
            f"{what})."
        )
    return Checkpoint(name, module, run, batch_size)


def _is_path_or_state(given: Any) -> bool:
    """Whether this is a path, or what holds the state of an optimizer."""
    return isinstance(given, str | Path | TrainingState | Mapping) or hasattr(given, "param_groups")


def estimates(given: Checkpoint, measures: Mapping[str, Measure], examples: Examples) -> dict[str, Estimate]:
    """Every measure's estimate.

    Raises:
        InvalidRequest: a measure reads what the checkpoint or the data don't hold.
    """
    whole = {name: measure for name, measure in measures.items() if all(isinstance(need, OF_RUN) for need in measure.needs)}
    layered = {name: measure for name, measure in measures.items() if name not in whole}
    results = {**_of_run(given, whole), **(_of_layers(given, layered, examples) if layered else {})}
    return {name: results[name] for name in measures}


def _of_run(given: Checkpoint, measures: Mapping[str, Measure]) -> dict[str, Estimate]:
    """Measures of the movement of all weights together."""
    if not measures:
        return {}
    if given.run is None:
        first = next(iter(measures))
        raise InvalidRequest(
            f"checkpoint '{given.name}' has no trajectory, which {first} reads; record one and give it as (module, trajectory)."
        )
    if not isinstance(given.run, Trajectory):
        raise _one_moment(given, next(iter(measures)))
    observation = whole_run(given.run)
    for name, measure in measures.items():
        for need in measure.needs:
            if need not in observation:
                raise InvalidRequest(f"checkpoint '{given.name}': {name} reads what its trajectory doesn't hold, {_how(need)}.")
    return {name: measure(observation) for name, measure in measures.items()}


def _of_layers(given: Checkpoint, measures: Mapping[str, Measure], examples: Examples) -> dict[str, Estimate]:
    """Measures of each layer, put together. A layer of which the run holds nothing gives no number."""
    _refuse_absent(given, measures, examples)
    names, data = resolve_inputs(given.module, examples.data)
    batches = as_batches(data, names)
    model = open_model(given.module, first_examples(batches, 2)[0])
    run = _opened_run(given, model)
    for name in (name for name, measure in measures.items() if WeightFisher() in measure.needs):
        _refuse_unknown_unit(given.name, name, run)
    source = ObservedModel(model, batches, examples.calibrated, run=run)
    by_layer: dict[str, dict[str, Estimate]] = {name: {} for name in measures}
    sizes = {layer.name: layer.weights for layer in model.layers()}
    for layer, observation in source.observe(tuple({need for measure in measures.values() for need in measure.needs})):
        for name, measure in measures.items():
            missing = [need for need in measure.needs if need not in observation]
            if not missing:
                by_layer[name][layer] = measure(observation)
            elif any(isinstance(need, OfTrajectories) for need in missing):
                by_layer[name][layer] = unusable(0, "the run holds nothing of this layer")
    return {name: of_network(by_layer[name], sizes, prediction(measure).shares) for name, measure in measures.items()}


def _refuse_absent(given: Checkpoint, measures: Mapping[str, Measure], examples: Examples) -> None:
    """Refuse measures of layers that read what was not given."""
    first = next(iter(measures))
    if given.module is None:
        raise InvalidRequest(
            f"checkpoint '{given.name}' is a trajectory alone, and {first} reads weights; give (module, trajectory)."
        )
    if examples.data is None:
        raise InvalidRequest(
            f"{first} reads networks; give example=x, or calibration=batches: one batch shows which inputs they take."
        )
    for name, measure in measures.items():
        if any(isinstance(need, (*FROM_DATA, OutputMoments)) for need in measure.needs) and not examples.calibrated:
            raise InvalidRequest(f"{name} observes networks on data; give calibration=batches.")
        recorded = [need for need in measure.needs if isinstance(need, OfTrajectories)]
        if recorded and given.run is None:
            either = " or checkpoint with the optimizer's state" if recorded == [WeightFisher()] else ""
            raise InvalidRequest(
                f"checkpoint '{given.name}' has no trajectory{either}, which {name} reads; give it as (module, trajectory)."
            )
        if recorded not in ([], [WeightFisher()]) and not isinstance(given.run, Trajectory):
            raise _one_moment(given, name)


def _one_moment(given: Checkpoint, measure: str) -> InvalidRequest:
    """A training state has no movement."""
    return InvalidRequest(
        f"checkpoint '{given.name}': {measure} reads how the weights moved, and a training state holds one moment of the run; "
        "record a trajectory and give (module, trajectory)."
    )


def _opened_run(given: Checkpoint, model: Model) -> RecordedRun | SavedRun | None:
    """What the training left behind, matched to the model; the checkpoint's batch size is that of a state which doesn't say it.

    Raises:
        InvalidRequest: it can't be read, or is another model's.
    """
    if given.run is None:
        return None
    try:
        return recorded_run(given.run, model, given.batch_size)
    except InvalidRequest as error:
        raise InvalidRequest(f"checkpoint '{given.name}': {error}") from error


def _refuse_unknown_unit(name: str, measure: str, run: RecordedRun | SavedRun | None) -> None:
    """Refuse Fisher information in a unit of its own, by which runs can't be compared."""
    why = ""
    if isinstance(run, RecordedRun) and not run.fisher.nats:
        why = f"{run.fisher.note}; record batch_size, and the learning_rate or gradients"
    elif isinstance(run, SavedRun) and run.state.relative:
        why = "the squares of its gradients have a unit of their own; leave the run or the measure out"
    elif isinstance(run, SavedRun) and not run.state.batch_size:
        why = "it doesn't say the batch size; give load_training_state(path, batch_size=...), or a hyper-parameter batch_size"
    elif isinstance(run, SavedRun) and not run.nats:
        why = f"the squares of its gradients go over {run.state.averaged:.0f} steps, too few for their scale; leave it out"
    if why:
        raise InvalidRequest(f"checkpoint '{name}': {measure} compares runs in nats, but {why}.")


def _how(need: Need) -> str:
    """The name of a missing value, and how to record it."""
    return next(text for kind, text in HOW.items() if isinstance(need, kind))


def _weights(module: Any) -> Mapping[str, Any]:
    """Layer -> weight, of a torch module."""
    from dyncompress.recording.torch_callback import layer_weights

    return layer_weights(module)
