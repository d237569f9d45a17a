# pyright: reportArgumentType=false, reportCallIssue=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Distillation of all weights while they are float: after structure was removed or zeros were set, and without labels.

min KL(teacher || student) over the weights and biases of the layers, on unlabelled images that are flipped, shifted and mixed
(`distillation.py`). A weight that is zero stays exactly zero. Layers that share their weight, layers that the plan leaves alone,
and parameters that belong to no layer stay as they are.

**Source**: knowledge distillation, Hinton et al. 2015, without labels; fine-tuning under a mask as Han et al. 2015. Adam's
learning rate is relative: for a weight to the layer's root mean square weight, for a bias to the standard deviation of the
layer's output, so that one rate fits all layers.

Cost: half as much again as a distillation of gains and shifts. Memory: the activations that a backward pass keeps for one batch,
and seven copies of the weights: the student and its gradients, Adam's two moments, the best state, the teacher, the new model.

Fails when: there are few examples, since a fit to them need not generalise. The held-out examples detect this and
choose an early epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyncompress.errors import InvalidRequest
from dyncompress.models.torch.calling import temporary_hooks
from dyncompress.models.torch.distillation import Network, distill, networks
from dyncompress.models.torch.layers import canonical
from dyncompress.models.torch.matching import join_batches, moments_of
from dyncompress.models.torch.traced_model import M, TracedModel
from dyncompress.types import Batch, DistillationTask, SetWeight

_MOMENT_EXAMPLES = 256  # examples whose outputs set the units of the biases

State = dict[str, tuple[Tensor, Tensor | None]]  # layer -> weight in the module's own layout, and bias


def distill_weights(model: M, teacher: TracedModel, batches: Sequence[Batch], task: DistillationTask) -> M:
    """Distil the teacher into the weights and biases of the model's layers.

    Args:
        model: the network with less structure or with zeros, in float.
        teacher: the original network.
        batches: unlabelled inputs; a share `task.spec.held_out` of the examples chooses among the epochs' states.
        task: the schedule, of which `epochs` and `rate` count; the seed; and the layers that stay as they are (`spared`).

    Returns:
        the new model.

    Raises:
        InvalidRequest: there are fewer than two examples, or no layer has a weight of its own.
    """
    inputs = join_batches(batches, model.input_names, 2**62)
    few = {name: value[:_MOMENT_EXAMPLES] for name, value in inputs.items()}
    original, network = networks(teacher, model, few)
    student = _Student(model, network, few, task.spared)
    state = distill(student, original, inputs, task, live=model.trace.activations)
    return model.edited([SetWeight(name, canonical(student.layers[name], w), b) for name, (w, b) in state.items()])


class _Student:
    """The network whose layers' weights and biases learn; weights that are zero get no gradient."""

    def __init__(self, model: TracedModel, network: Network, example: Batch, exclude: Collection[str]) -> None:
        """Choose the parameters that learn, and observe the spread of the outputs on the example."""
        trace = model.trace
        self.network, shared = network, _shared_parameters(network.module)
        names = [name for name in trace.modules if trace.calls.get(name, 0) and name not in exclude]
        modules = {name: network.module.get_submodule(trace.modules[name]) for name in names}
        self.layers = {name: m for name, m in modules.items() if id(m.weight) not in shared}
        if not self.layers:
            raise InvalidRequest("the model has no layer with a weight of its own to distil into; set distill.weight_epochs = 0.")
        self.biases = {
            name: m.bias
            for name, m in self.layers.items()
            if isinstance(getattr(m, "bias", None), Tensor) and id(m.bias) not in shared
        }
        self.spread: dict[str, float] = {}
        hooks = [self.layers[n].register_forward_hook(lambda m, _a, y, n=n: self._observe(n, m, y)) for n in self.biases]
        with temporary_hooks(hooks), torch.no_grad():
            network(example)
        for layer in self.layers.values():
            layer.weight.requires_grad_().register_hook(_keep_zeros(layer.weight.detach() != 0))
        for bias in self.biases.values():
            bias.requires_grad_()

    def _observe(self, name: str, layer: nn.Module, output: Tensor) -> None:
        """Store the median standard deviation of one layer's output channels."""
        self.spread[name] = float(moments_of(layer, output)[1].median())

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """One group for every weight and bias, each with a learning rate in its own units."""
        groups = []
        for layer in self.layers.values():
            weight = layer.weight.detach()
            root_mean_square = weight.norm() / weight.count_nonzero().clamp_min(1).sqrt()  # of the weights that aren't zero
            groups.append({"params": [layer.weight], "lr": rate * float(root_mean_square)})
        return groups + [{"params": [bias], "lr": rate * self.spread[name]} for name, bias in self.biases.items()]

    def state(self) -> State:
        """Layer -> copies of its weight and its bias; None for a bias that doesn't learn."""
        return {
            name: (layer.weight.detach().clone(), self.biases[name].detach().clone() if name in self.biases else None)
            for name, layer in self.layers.items()
        }

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs in order, with gradients."""
        return self.network(batch)


def _keep_zeros(nonzero: Tensor) -> Callable[[Tensor], Tensor]:
    """A gradient hook that sets the gradient to zero where a weight is zero."""
    return lambda gradient: gradient * nonzero


def _shared_parameters(module: nn.Module) -> set[int]:
    """Ids of the parameters that occur at several places of a module."""
    once: set[int] = set()
    several: set[int] = set()
    for _, parameter in module.named_parameters(remove_duplicate=False):
        (several if id(parameter) in once else once).add(id(parameter))
    return several
