"""The values that measures read from one checkpoint: the network layer by layer, the recorded run as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyncompress.errors import InvalidRequest
from dyncompress.measures import whole_run
from dyncompress.models import open_model
from dyncompress.models.data import as_batches
from dyncompress.models.signature import resolve_inputs
from dyncompress.pipeline.observed_model import FROM_DATA, ObservedModel, first_examples
from dyncompress.pipeline.recorded_run import recorded_run
from dyncompress.pipeline.selection.prediction import of_network, prediction
from dyncompress.recording import load_trajectory, weights_digest
from dyncompress.types import (
    Estimate,
    ExampleLosses,
    Gradients,
    Iterates,
    Measure,
    Need,
    OfTrajectories,
    OutputMoments,
    Trajectory,
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
    """One trained network, one recorded run, or both.

    Attributes:
        name: for messages.
        module: in torch, or None.
        run: or None.
    """

    name: str
    module: Any
    run: Trajectory | None


def checkpoint(name: str, given: Any) -> Checkpoint:
    """What a user calls a checkpoint: a torch module, a trajectory, the path of one, or a pair (module, trajectory).

    Raises:
        InvalidRequest: something else, or the trajectory is another module's.
    """
    module, run = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if run is None and isinstance(module, Trajectory | str | Path):
        module, run = None, module
    if isinstance(run, str | Path):
        run = load_trajectory(run)
    fine = (module is None or hasattr(module, "forward")) and (run is None or isinstance(run, Trajectory))
    if not fine or (module is None and run is None):
        kind = type(given).__name__
        raise InvalidRequest(
            f"checkpoint '{name}' is a {kind}; give a torch module, a trajectory (or its .npz), or both as (module, trajectory)."
        )
    if module is not None and run is not None and weights_digest(_weights(module)) != run.digest:
        raise InvalidRequest(
            f"checkpoint '{name}': its trajectory ends at other weights than the module's; give the trajectory of this run."
        )
    return Checkpoint(name, module, run)


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
    observation = whole_run(given.run)
    for name, measure in measures.items():
        for need in measure.needs:
            if need not in observation:
                raise InvalidRequest(f"checkpoint '{given.name}': {name} reads what its trajectory doesn't hold, {_how(need)}.")
    return {name: measure(observation) for name, measure in measures.items()}


def _of_layers(given: Checkpoint, measures: Mapping[str, Measure], examples: Examples) -> dict[str, Estimate]:
    """Measures of each layer, put together."""
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
        if any(isinstance(need, OfTrajectories) for need in measure.needs) and given.run is None:
            raise InvalidRequest(
                f"checkpoint '{given.name}' has no trajectory, which {name} reads; give it as (module, trajectory)."
            )
    names, data = resolve_inputs(given.module, examples.data)
    batches = as_batches(data, names)
    model = open_model(given.module, first_examples(batches, 2)[0])
    run = None if given.run is None else recorded_run(given.run, model)
    source = ObservedModel(model, batches, examples.calibrated, run=run)
    by_layer: dict[str, dict[str, Estimate]] = {name: {} for name in measures}
    sizes = {layer.name: layer.weights for layer in model.layers()}
    for layer, observation in source.observe(tuple({need for measure in measures.values() for need in measure.needs})):
        for name, measure in measures.items():
            if all(need in observation for need in measure.needs):
                by_layer[name][layer] = measure(observation)
    return {name: of_network(by_layer[name], sizes, prediction(measure).shares) for name, measure in measures.items()}


def _how(need: Need) -> str:
    """The name of a missing value, and how to record it."""
    return next(text for kind, text in HOW.items() if isinstance(need, kind))


def _weights(module: Any) -> Mapping[str, Any]:
    """Layer -> weight, of a torch module."""
    from dyncompress.recording.torch_callback import layer_weights

    return layer_weights(module)
