# pyright: reportArgumentType=false, reportFunctionMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Run a torch module on named inputs, and read whatever it returns as a tuple of tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.types import Batch

# What torch and model code raise when an input doesn't fit.
CALL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


class EnoughError(Exception):
    """Ends a forward pass early, from a hook: what it was run for has been seen."""


def private_copy(module: nn.Module) -> nn.Module:
    """A deep copy in eval mode without the original's hooks; hooks that compute a weight are replaced by that weight.

    Raises:
        InvalidRequest: it holds what can't be copied.
    """
    try:
        own = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidRequest(f"the model can't be copied ({reason}); open it before training graphs hang on it.") from error
    for part in own.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
                hook.remove(part)
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()
    return own.eval()


def takes_names(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether the forward method has a parameter of each of these names; else inputs are passed by position."""
    parameters = inspect.signature(module.forward).parameters
    return all(name in parameters for name in names)


def placed(batch: Batch, module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """The named inputs as tensors on the module's device; floats in its dtype, integers and booleans as they are.

    Raises:
        InvalidRequest: an input is missing.
    """
    missing = [name for name in names if name not in batch]
    if missing:
        raise InvalidRequest(
            f"the model's input '{missing[0]}' is missing; the batch has {', '.join(sorted(batch)) or 'nothing'}."
        )
    floats = (p for p in module.parameters() if p.is_floating_point())
    first = next(floats, None)
    device = first.device if first is not None else torch.device("cpu")
    dtype = first.dtype if first is not None else torch.float32
    found = {}
    for name in names:
        value = batch[name]
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        found[name] = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
    return found


def call(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    """The module's own output for inputs that `placed` prepared."""
    if takes_names(module, names):
        return module(**{name: inputs[name] for name in names})
    return module(*[inputs[name] for name in names])


def called(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    """`call` on a calibration batch.

    Raises:
        InvalidRequest: the batch doesn't fit the model.
    """
    try:
        return call(module, inputs, names)
    except CALL_ERRORS as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InvalidRequest(
            f"the model can't run on a calibration batch ({shapes}): {reason}; every batch must fit the model."
        ) from error


def flattened(output: Any) -> tuple[Tensor, ...]:
    """Every tensor of a nested output (tuples, lists, mappings and their kin), in order; None and caches are skipped."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, Mapping):
        return tuple(t for value in output.values() for t in flattened(value))
    if isinstance(output, tuple | list):
        return tuple(t for value in output for t in flattened(value))
    return ()


def outputs(module: nn.Module, batch: Batch, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The flattened outputs, without gradients."""
    with torch.no_grad():
        return flattened(call(module, placed(batch, module, names), names))


def split(batch: Batch, names: Sequence[str], size: int) -> Iterator[Batch]:
    """Pieces of at most `size` examples; the whole batch where its inputs don't share their first axis."""
    lengths = {len(batch[name]) for name in names if name in batch}
    n = max(lengths, default=0)
    if len(lengths) != 1 or n <= max(size, 1):
        yield batch
        return
    for start in range(0, n, max(size, 1)):
        yield {name: batch[name][start : start + max(size, 1)] for name in names}


@contextmanager
def hooked(hooks: Sequence[Any]) -> Iterator[None]:
    """Remove these hook handles on the way out, whatever happens."""
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside this block: only activations carry them. Restored on the way out."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    # cuDNN has no backward pass of recurrent layers in eval mode.
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent, allow_tf32=False):
        try:
            for parameter in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Gradients of activations alone, in true float32."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with frozen(module), linalg.full_precision(device), torch.enable_grad():
        yield


def checked_outputs(
    module: nn.Module, example: Batch, names: Sequence[str], layers: Mapping[str, nn.Module]
) -> tuple[Tensor, ...]:
    """The outputs on the first example, with one sentence where it doesn't fit.

    Raises:
        InvalidRequest: the forward pass fails, returns no tensor, or returns values that aren't finite.
    """
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def enter(name: str, layer: nn.Module, args: tuple) -> None:
        given = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ()
        entered[:] = [(name, layer, given)]

    def leave(_layer: nn.Module, _args: tuple, _output: Any) -> None:
        entered.clear()

    handles = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(lambda m, a, name=name: enter(name, m, a)))
        handles.append(layer.register_forward_hook(leave))
    with hooked(handles):
        try:
            found = outputs(module, example, names)
        except CALL_ERRORS as error:
            raise InvalidRequest(_explained(error, entered, example, names)) from error
    if not found:
        raise InvalidRequest("the model returned no tensor for the example; wrap it in a module whose forward returns tensors.")
    if not all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point()):
        raise InvalidRequest(
            "the model's output for the example holds NaN or infinite values; check the example and the weights."
        )
    return found


def _explained(
    error: BaseException, entered: Sequence[tuple[str, nn.Module, tuple[int, ...]]], example: Batch, names: Sequence[str]
) -> str:
    """One sentence: which layer, what it expects, what it was given."""
    inputs = ", ".join(f"{name} {_dtype(example[name])}{list(np.shape(example[name]))}" for name in names)
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if not entered:
        return f"the model can't run on the example ({inputs}): {reason}; pass an example shaped like the model's own inputs."
    name, layer, given = entered[0]
    width = getattr(layer, "in_channels", getattr(layer, "in_features", None))
    expected = (
        f"expects {width} {'channels' if hasattr(layer, 'in_channels') else 'features'} and was given {list(given)}"
        if width
        else reason
    )
    return f"the example doesn't fit the model: layer '{name}' {expected} (inputs: {inputs}; {reason}); change the example."


def _dtype(value: Any) -> str:
    """A short name of an array's dtype."""
    return str(value.dtype).removeprefix("torch.")
