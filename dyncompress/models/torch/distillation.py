# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Label-free distillation of all weights, while they are float: after structure was removed and zeros were set.

min KL(teacher || student) over the weights and biases of the layers, on unlabelled images that are flipped, shifted and mixed.
A weight that is zero stays zero, exactly. Layers that share their weight, those that are left alone, and parameters that belong
to no layer stay as they are.

**Source**: knowledge distillation, Hinton et al. 2015, without labels; fine-tuning under a mask as Han et al. 2015. Adam's rate
is a share of a layer's root mean square weight, for biases of its outputs' standard deviation, so that one fits all layers.

Cost: half as much again as a pass that learns gains and shifts alone. Memory: what a backward pass keeps of one batch, and seven
copies of the weights: the student and its gradients, Adam's two moments, the best state, the teacher, the new model.

Fails when: examples are few, since what fits them need not carry over. The examples kept aside tell, and choose an early epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import hooked
from dyncompress.models.torch.layers import canonical
from dyncompress.models.torch.learning import Network, learned, networks
from dyncompress.models.torch.matching import moments_of, together
from dyncompress.models.torch.model import TorchModel
from dyncompress.types import Batch, Distillation, SetWeight

_LOOKED_AT = 256  # examples whose outputs set the biases' units

State = dict[str, tuple[Tensor, Tensor | None]]  # layer -> weight in the module's own layout, and bias


def taught(
    model: TorchModel,
    teacher: TorchModel,
    batches: Sequence[Batch],
    *,
    spec: Distillation,
    seed: int = 0,
    spared: Collection[str] = (),
    mirrored: bool = True,
) -> TorchModel:
    """Distil the teacher into the weights and biases of the layers.

    Args:
        model: the network with less structure or with zeros, in float.
        teacher: the original.
        batches: unlabelled inputs; a share `spec.held_out` of the examples, drawn by the seed, chooses among the epochs' states.
        spec: how long (`epochs`), how fast (`rate`).
        seed: of the order of the examples and their augmentation.
        spared: layers that stay as they are.
        mirrored: whether images may be flipped left to right.

    Returns:
        the new model.

    Raises:
        InvalidRequest: fewer than two examples, or no layer has a weight of its own.
    """
    inputs = together(batches, model.input_names, 2**62)
    few = {name: value[:_LOOKED_AT] for name, value in inputs.items()}
    original, network = networks(teacher, model, few)
    student = _Student(model, network, few, spared)
    kept = learned(student, original, inputs, spec=spec, seed=seed, live=model.trace.activations, mirrored=mirrored)
    return model.edited([SetWeight(name, canonical(student.layers[name], w), b) for name, (w, b) in kept.items()])


class _Student:
    """The network whose layers' weights and biases learn; zeros have no gradient."""

    def __init__(self, model: TorchModel, network: Network, example: Batch, spared: Collection[str]) -> None:
        """Ask for gradients, and look at the spread of the outputs once."""
        trace = model.trace
        self.network, shared = network, _shared(network.module)
        called = [name for name in trace.modules if trace.calls.get(name, 0) and name not in spared]
        modules = {name: network.module.get_submodule(trace.modules[name]) for name in called}
        self.layers = {name: m for name, m in modules.items() if id(m.weight) not in shared}
        if not self.layers:
            raise InvalidRequest("the model has no layer with a weight of its own to teach; set distill.weight_epochs = 0.")
        self.biases = {n: m.bias for n, m in self.layers.items() if _is_tensor(m, "bias") and id(m.bias) not in shared}
        self.spread: dict[str, float] = {}
        hooks = [self.layers[n].register_forward_hook(lambda m, _a, y, n=n: self._look(n, m, y)) for n in self.biases]
        with hooked(hooks), torch.no_grad():
            network(example)
        for layer in self.layers.values():
            layer.weight.requires_grad_().register_hook(_masked(layer.weight.detach() != 0))
        for bias in self.biases.values():
            bias.requires_grad_()

    def _look(self, name: str, layer: nn.Module, output: Tensor) -> None:
        self.spread[name] = float(moments_of(layer, output)[1].median())

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Weights and biases, each tensor at a rate in its own units."""
        found = []
        for layer in self.layers.values():
            there = layer.weight.detach()
            typical = there.norm() / there.count_nonzero().clamp_min(1).sqrt()
            found.append({"params": [layer.weight], "lr": rate * float(typical)})
        return found + [{"params": [bias], "lr": rate * self.spread[name]} for name, bias in self.biases.items()]

    def state(self) -> State:
        """Copies of weights and biases."""
        return {
            name: (layer.weight.detach().clone(), self.biases[name].detach().clone() if name in self.biases else None)
            for name, layer in self.layers.items()
        }

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs with the present weights."""
        return self.network(batch)


def _masked(there: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that takes away the gradient where a weight is zero."""
    return lambda gradient: gradient * there


def _is_tensor(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), Tensor)


def _shared(module: nn.Module) -> set[int]:
    """Ids of parameters that stand at several places."""
    seen: set[int] = set()
    found: set[int] = set()
    for _, parameter in module.named_parameters(remove_duplicate=False):
        (found if id(parameter) in seen else seen).add(id(parameter))
    return found
