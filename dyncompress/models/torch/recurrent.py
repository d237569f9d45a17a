# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""Weights of recurrent layers, seen as layers of their own: what is rounded there is stored at its width.

torch's recurrent layers keep their matrices in bare parameters and multiply them inside one fused call. A `RecurrentWeight` is a
submodule that shares such a parameter and is never called: an edit of its weight, in place, is an edit of the recurrent layer.
Runtimes compute recurrent layers in float, so that the file holds integers which the session turns into floats when it loads.
"""

from __future__ import annotations

from torch import nn

MATRICES = ("weight_ih", "weight_hh", "weight_hr")
# torch stacks the gates' rows in one order, ONNX in another: the gates in ONNX's order, counted in torch's.
_GATES = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}


class RecurrentWeight(nn.Module):
    """One matrix of a recurrent layer, `(gates * hidden, inputs)`.

    Attributes:
        weight: the recurrent layer's own parameter.
        parameter: its name, from the root of the network.
        gates: the order of the gates in ONNX's operator, counted in torch's; empty where rows keep their order.
    """

    def __init__(self, weight: nn.Parameter, parameter: str, gates: tuple[int, ...]) -> None:
        """Share the parameter."""
        super().__init__()
        self.weight, self.parameter, self.gates = weight, parameter, gates


def hold(module: nn.Module) -> None:
    """Give every recurrent layer of a private copy a `RecurrentWeight` for each of its matrices, in place.

    The names leave out `weight_`: the matrix `lstm.weight_ih_l0` is the layer `lstm.ih_l0`.
    """
    for path, part in list(module.named_modules()):
        if not isinstance(part, nn.RNNBase | nn.RNNCellBase):
            continue
        gates = next((order for cls, order in _GATES.items() if isinstance(part, cls)), ())
        for name, parameter in list(part.named_parameters(recurse=False)):
            if name.startswith(MATRICES):
                full = f"{path}.{name}" if path else name
                rows = gates if not name.startswith("weight_hr") else ()
                part.add_module(name.removeprefix("weight_"), RecurrentWeight(parameter, full, rows))
