# pyright: reportArgumentType=false, reportFunctionMemberAccess=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Run a torch module on named inputs, and read whatever it returns as a tuple of tensors."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from dyncompress import linalg
from dyncompress.errors import InvalidRequest
from dyncompress.types import Batch

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# What torch and model code raise when an input doesn't fit.
CALL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


class EnoughError(Exception):
    """Ends a forward pass early, from a hook: what it was run for has been seen."""


def with_gradients(verb: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """The function with gradients on inside it, whatever mode it is called in (`torch.no_grad`, `torch.inference_mode`)."""

    @functools.wraps(verb)
    def inner(*args: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        """Run in the ordinary mode."""
        with torch.inference_mode(False), torch.enable_grad():
            return verb(*args, **keywords)

    return inner


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """The forward method as a function of the module, so that what wraps it serves a copy of the module as well."""
    own = module.__dict__.get("forward")
    if own is None:
        return type(module).forward
    if isinstance(own, types.MethodType) and own.__self__ is module:
        return own.__func__
    return functools.wraps(own)(lambda _self, *args, **keywords: own(*args, **keywords))


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside what torch wraps around one: `torch.compile`, `DataParallel`, `DistributedDataParallel`."""
    inner = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(inner.module)
    return inner


def without_wrappers(module: nn.Module) -> None:
    """Put the networks inside `torch.compile` and `DataParallel` in the place of these wrappers, in place."""
    for parent in list(module.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and (inner := unwrapped(child)) is not child:
                parent._modules[key] = inner


def evaluating(module: nn.Module) -> nn.Module:
    """A network of the caller's as it answers: itself where it is in eval mode, else a copy that is; hooks and all."""
    return copied(module).eval() if any(part.training for part in module.modules()) else module


def private_copy(module: nn.Module) -> nn.Module:
    """A deep copy in eval mode; hooks that compute a weight are replaced by that weight. Forward hooks stay (`torch_hooks`).

    Raises:
        InvalidRequest: it holds what can't be copied.
    """
    own = copied(module)
    for part in own.modules():
        for number, hook in list(part._forward_pre_hooks.items()):
            if type(hook).__name__ in ("WeightNorm", "SpectralNorm") or isinstance(hook, BasePruningMethod):
                hook.remove(part)
                del part._forward_pre_hooks[number]
        for hooks in (part._backward_hooks, part._backward_pre_hooks):
            hooks.clear()
    return own.eval()


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; tensors that hang on a graph, which torch doesn't copy, are copied without it.

    Raises:
        InvalidRequest: it holds what can't be copied.
    """
    kept = {id(v): v.detach().clone() for part in module.modules() for v in _tensors_of(vars(part)) if not v.is_leaf}
    made = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) if isinstance(p, nn.Parameter) else p.clone()
        for p in (*module.parameters(), *module.buffers())
        if p.is_inference()
    }
    try:
        return copy.deepcopy(module, kept | made)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidRequest(f"the model can't be copied ({reason}); open it before training graphs hang on it.") from error


def _tensors_of(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor in a value, inside lists, tuples, mappings and plain objects; modules are left to the caller."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, nn.Module | type | types.ModuleType):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in list(value.values()):
            yield from _tensors_of(entry, seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for entry in value:
            yield from _tensors_of(entry, seen)
    elif hasattr(value, "__dict__"):
        yield from _tensors_of(vars(value), seen)


def without_parametrizations(module: nn.Module) -> None:
    """Weights that are computed by parametrizations become plain weights, in place.

    torch keeps the computing property on a class of its own, which a copy shares with the module it was copied from: the copy
    gets another one first, or the caller's module would lose its weight.
    """
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            shared = type(part)
            members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
            object.__setattr__(part, "__class__", type(shared.__name__, shared.__bases__, members))
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the module's buffers back on the way out: the forward pass of a network with a state changes them."""
    before = [(part, name, b, b.clone()) for part in module.modules() for name, b in part._buffers.items() if b is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, name, buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                part._buffers[name] = buffer


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
        moved = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        found[name] = moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved  # a forward pass may write into it
    return found


def caller_outputs(module: nn.Module, batch: Batch, names: Sequence[str], size: int = 0) -> tuple[Tensor, ...]:
    """The flattened outputs of the caller's own network, called as the caller calls it; it is left as it was.

    Args:
        module: in eval mode.
        batch: inputs by name.
        names: of the inputs.
        size: the one batch size that it runs on; 0: any.

    Raises:
        InvalidRequest: the inputs don't fit it.
    """
    with torch.no_grad(), buffers_kept(module):
        try:
            inputs = placed(batch, module, names)
            if not size:
                return flattened(call(module, inputs, names))
            rows = len(inputs[names[0]])
            whole = {
                name: torch.cat([value, value[-1:].expand(-rows % size, *value.shape[1:])]) for name, value in inputs.items()
            }
            parts = [flattened(call(module, piece, names)) for piece in split(whole, names, size)]
            return tuple(torch.cat(values)[:rows] for values in zip(*parts, strict=True))
        except CALL_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InvalidRequest(f"the model itself can't run on these inputs: {reason}; give inputs that fit it.") from error


def call(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    """The module's own output for inputs that `placed` prepared, called as people call it: by position wherever the names are its
    first parameters. Hooks see keyword arguments only where they ask for them."""
    parameters = inspect.signature(module.forward).parameters.values()
    first = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(names)]
    with layer_by_layer():
        if first != list(names) and takes_names(module, names):
            return module(**{name: inputs[name] for name in names})
        return module(*[inputs[name] for name in names])


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """No fused encoder layers inside this block: torch's fast path calls none of their layers, and no exporter knows it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
    for index, tensor in enumerate(found):
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InvalidRequest(
                f"output {index} of the model holds NaN or infinite values for the example ({bad} of {tensor.numel()} numbers); "
                "check the example and the weights, or let forward return finite numbers (torch.nan_to_num behind the softmax of "
                "positions that are masked altogether, a large negative number for masked scores)."
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
