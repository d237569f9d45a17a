"""Training states in the checkpoints of PyTorch, Lightning and the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dyncompress.errors import InvalidRequest
from dyncompress.recording.training_states.assembly import About, assembled
from dyncompress.recording.training_states.contents import Contents, OptimizerState
from dyncompress.recording.training_states.matching import matched
from dyncompress.recording.training_states.moments import Moment, NoMomentError, second_moment
from dyncompress.recording.training_states.order import Shapes
from dyncompress.types import TrainingState

_KINDS = {"exp_avg_sq": "Adam", "square_avg": "RMSprop", "sum": "Adagrad", "exp_inf": "Adamax", "momentum_buffer": "SGD"}


def state_from(contents: Contents, source: str, parameters: Shapes, batch_size: int) -> TrainingState:
    """The training state of a checkpoint.

    Args:
        contents: of it.
        source: the path, for messages.
        parameters: names and shapes of the model's own parameters, for a file that holds no weights; may be empty.
        batch_size: examples of one step as the caller knows it; 0: what the file says, if it does.

    Raises:
        InvalidRequest: it holds no state of an optimizer, no squares of gradients, or nothing to tell parameters apart by.
    """
    if not contents.optimizers:
        raise InvalidRequest(
            f"checkpoint '{source}' holds no state of an optimizer; save {{'model': model.state_dict(), 'optimizer': "
            "optimizer.state_dict()} with torch.save."
        )
    named: dict[str, Moment] = {}
    values: dict[str, Sequence[Tensor]] = {}
    left: list[str] = []
    reasons: list[str] = []
    for optimizer in contents.optimizers:
        moments, why = _moments(optimizer, source)
        match = matched(moments, optimizer, contents, parameters)
        named |= match.moments
        values |= match.values
        left += match.left
        reasons += why
    if not named:
        raise _nothing(source, reasons, left, bool(contents.weights or parameters))
    partly = [f"parameters of the optimizer are left out: {reason}" for reason in dict.fromkeys(reasons)]
    about = About(
        source=source,
        optimizer=_optimizer_name(contents.optimizers),
        steps=_steps(contents),
        batch_size=batch_size or contents.batch_size,
        relative=contents.clipped,
        notes=(*contents.notes, *partly, *dict.fromkeys(left)),
    )
    return assembled(named, values, about)


def _nothing(source: str, reasons: Sequence[str], left: Sequence[str], weights: bool) -> InvalidRequest:
    """Why a checkpoint with the state of an optimizer says nothing."""
    if reasons:
        return InvalidRequest(
            f"checkpoint '{source}': its optimizer gives no squares of gradients: {reasons[0]}; give the checkpoint of a run "
            "with Adam, RMSprop, Adagrad, Adafactor, or SGD with momentum."
        )
    if not left and weights:
        return InvalidRequest(
            f"checkpoint '{source}': its optimizer gives no squares of gradients: no step was taken; give a later checkpoint."
        )
    if not weights:
        return InvalidRequest(
            f"checkpoint '{source}' holds the state of an optimizer and no weights to tell its parameters apart by; save "
            "{'model': model.state_dict(), 'optimizer': optimizer.state_dict()}, or give the model as a module."
        )
    return InvalidRequest(
        f"checkpoint '{source}' is another model's: {left[0]}; give the checkpoint of this model's training, or make the "
        "optimizer of model.named_parameters(), whose names it saves."
    )


def _moments(optimizer: OptimizerState, source: str) -> tuple[dict[Any, Moment], list[str]]:
    """Key -> second moment of each parameter, in order; and why others have none."""
    moments, reasons = {}, []
    try:
        for group, key in optimizer.parameters():
            state = optimizer.states.get(key)
            if not isinstance(state, Mapping) or not state:
                continue  # frozen, or never in a step
            try:
                moments[key] = second_moment(state, optimizer.groups[group])
            except NoMomentError as error:
                reasons.append(str(error))
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InvalidRequest(
            f"checkpoint '{source}': the state of its optimizer has a form that isn't read ({type(error).__name__}: "
            f"{str(error)[:80]}); save optimizer.state_dict() of an optimizer of torch."
        ) from error
    return moments, reasons


def _optimizer_name(optimizers: Sequence[OptimizerState]) -> str:
    """A name for messages, from what the states hold."""
    keys = {key for optimizer in optimizers for state in optimizer.states.values() if isinstance(state, Mapping) for key in state}
    if any("ns_steps" in group for optimizer in optimizers for group in optimizer.groups):
        return "Muon"
    if "row_var" in keys or "exp_avg_sq_row" in keys:
        return "Adafactor"
    if "acc_delta" in keys:
        return "Adadelta"
    return next((name for key, name in _KINDS.items() if key in keys), "its optimizer")


def _steps(contents: Contents) -> int:
    """Optimizer steps of the run."""
    states = (state for optimizer in contents.optimizers for state in optimizer.states.values())
    steps = [float(state["step"]) for state in states if isinstance(state, Mapping) and "step" in state]
    return int(max(steps, default=contents.numbers.get("global_step", 0)))
