# pyright: reportArgumentType=false, reportFunctionMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Run a torch module on inputs by name, and read whatever it returns as a tuple of tensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.types import Batch

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# The exceptions that torch and model code raise when an input doesn't fit.
CALL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


class EnoughError(Exception):
    """Raised in a hook to end a forward pass early, once everything that it was run for was observed."""


def as_verb(verb: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Decorator: run a function with gradients enabled, whatever the caller's mode, and with `linalg.kept_memory`."""

    @functools.wraps(verb)
    def inner(*args: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        """The function itself, with gradients enabled."""
        with torch.inference_mode(False), torch.enable_grad(), linalg.kept_memory():
            return verb(*args, **keywords)

    return inner


@contextmanager
def restoring_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the module's buffers after this block: the forward pass of a stateful network changes them."""
    before = [(part, name, b, b.clone()) for part in module.modules() for name, b in part._buffers.items() if b is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, name, buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                part._buffers[name] = buffer


def accepts_names(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether the forward method has a parameter of each of these names; if not, inputs are passed by position."""
    parameters = inspect.signature(module.forward).parameters
    return all(name in parameters for name in names)


def device_inputs(batch: Batch, module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """The inputs as new tensors on the module's device: floats in the dtype of its parameters, other types unchanged.

    Args:
        batch: arrays or tensors by input name.
        module: gives the device and the dtype; without parameters, the CPU and float32.
        names: input names, in order.

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
    inputs = {}
    for name in names:
        value = batch[name]
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        copy = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        inputs[name] = copy.clone() if copy.data_ptr() == tensor.data_ptr() else copy  # a forward pass may write into it
    return inputs


def caller_outputs(module: nn.Module, batch: Batch, names: Sequence[str], size: int = 0) -> tuple[Tensor, ...]:
    """The outputs of the caller's own network as a tuple of tensors; its buffers are restored afterwards.

    Args:
        module: in eval mode.
        batch: `[n, ...]` by input name.
        names: input names, in order.
        size: the one batch size that the network runs on; 0 for any. Other batches are padded and split.

    Raises:
        InvalidRequest: the inputs don't fit the network.
    """
    with torch.no_grad(), restoring_buffers(module):
        try:
            inputs = device_inputs(batch, module, names)
            if not size:
                return tensors_of(call(module, inputs, names))
            rows = len(inputs[names[0]])
            whole = {
                name: torch.cat([value, value[-1:].expand(-rows % size, *value.shape[1:])]) for name, value in inputs.items()
            }
            parts = [tensors_of(call(module, piece, names)) for piece in split(whole, names, size)]
            return tuple(torch.cat(values)[:rows] for values in zip(*parts, strict=True))
        except CALL_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InvalidRequest(f"the model itself can't run on these inputs: {reason}; give inputs that fit it.") from error


def call(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    """The module's own output for inputs from `device_inputs`.

    Inputs are passed by position wherever the names are the forward method's first parameters, because a hook receives keyword
    arguments only if it was registered with `with_kwargs`.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    first = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(names)]
    with layer_by_layer():
        if first != list(names) and accepts_names(module, names):
            return module(**{name: inputs[name] for name in names})
        return module(*[inputs[name] for name in names])


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Disable fused encoder layers inside this block: torch's fast path skips their layers, and exporters don't support it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def call_calibration_batch(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    """`call` on a calibration batch, with an error that names its shapes.

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


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """Every tensor of nested tuples, lists and mappings, in order; other values, such as None and caches, are skipped."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, Mapping):
        return tuple(t for value in output.values() for t in tensors_of(value))
    if isinstance(output, tuple | list):
        return tuple(t for value in output for t in tensors_of(value))
    return ()


def outputs(module: nn.Module, batch: Batch, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The outputs for a batch as a tuple of tensors, without gradients."""
    with torch.no_grad():
        return tensors_of(call(module, device_inputs(batch, module, names), names))


def split(batch: Batch, names: Sequence[str], size: int) -> Iterator[Batch]:
    """Split a batch into pieces of at most `size` examples; inputs of different lengths stay one batch."""
    lengths = {len(batch[name]) for name in names if name in batch}
    n = max(lengths, default=0)
    if len(lengths) != 1 or n <= max(size, 1):
        yield batch
        return
    for start in range(0, n, max(size, 1)):
        yield {name: batch[name][start : start + max(size, 1)] for name in names}


@contextmanager
def temporary_hooks(hooks: Sequence[Any]) -> Iterator[None]:
    """Remove these hooks after the block, also after an exception."""
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Inside this block no parameter requires a gradient, so that only activations have one."""
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
    """Inside this block gradients are enabled for activations only, and products are full float32."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with frozen_parameters(module), linalg.full_precision(device), torch.enable_grad():
        yield


def checked_outputs(
    module: nn.Module, example: Batch, names: Sequence[str], layers: Mapping[str, nn.Module]
) -> tuple[Tensor, ...]:
    """The outputs on the example, checked.

    Args:
        module: in eval mode.
        example: `[n, ...]` by input name.
        names: input names, in order.
        layers: layer -> module; where the pass fails inside one of them, the error names it.

    Raises:
        InvalidRequest: the forward pass fails, returns no tensor, or returns values that aren't finite.
    """
    running: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def enter(name: str, layer: nn.Module, args: tuple) -> None:
        shape = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ()
        running[:] = [(name, layer, shape)]

    def leave(_layer: nn.Module, _args: tuple, _output: Any) -> None:
        running.clear()

    handles = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(lambda m, a, name=name: enter(name, m, a)))
        handles.append(layer.register_forward_hook(leave))
    with temporary_hooks(handles):
        try:
            values = outputs(module, example, names)
        except CALL_ERRORS as error:
            raise InvalidRequest(_explanation(error, running, example, names)) from error
    if not values:
        raise InvalidRequest("the model returned no tensor for the example; wrap it in a module whose forward returns tensors.")
    for index, tensor in enumerate(values):
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InvalidRequest(
                f"output {index} of the model holds NaN or infinite values for the example ({bad} of {tensor.numel()} numbers); "
                "check the example and the weights, or let forward return finite numbers (torch.nan_to_num after the softmax of "
                "positions that are masked altogether, a large negative number for masked scores)."
            )
    return values


def _explanation(
    error: BaseException, running: Sequence[tuple[str, nn.Module, tuple[int, ...]]], example: Batch, names: Sequence[str]
) -> str:
    """One sentence about a failed forward pass: which layer, what it expects, and the shape of its input."""
    inputs = ", ".join(f"{name} {_dtype(example[name])}{list(np.shape(example[name]))}" for name in names)
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if not running:
        return f"the model can't run on the example ({inputs}): {reason}; pass an example shaped like the model's own inputs."
    name, layer, shape = running[0]
    width = getattr(layer, "in_channels", getattr(layer, "in_features", None))
    mismatch = (
        f"expects {width} {'channels' if hasattr(layer, 'in_channels') else 'features'} and was given {list(shape)}"
        if width
        else reason
    )
    return f"the example doesn't fit the model: layer '{name}' {mismatch} (inputs: {inputs}; {reason}); change the example."


def _dtype(value: Any) -> str:
    """A short name of an array's dtype."""
    return str(value.dtype).removeprefix("torch.")
