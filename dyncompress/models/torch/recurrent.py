# pyright: reportArgumentType=false
# (to a checker every attribute of an nn.Module is `Tensor | Module`)
"""The weight matrices of recurrent layers as layers of their own, so that they can be quantized.

torch's recurrent layers hold their matrices in bare parameters and multiply them inside one fused call. A `RecurrentWeight` is a
submodule that shares such a parameter and is never called: a new value of its weight is one of the recurrent layer. Runtimes
compute recurrent layers in float, so that the file holds integers, which a session converts to floats when it loads.
"""

from __future__ import annotations

from torch import nn

MATRICES = ("weight_ih", "weight_hh", "weight_hr")
# Gates in ONNX's order, as indices into torch's order, in which the rows of the matrices are stacked.
_GATES = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}


class RecurrentWeight(nn.Module):
    """One matrix of a recurrent layer, `(gates * hidden, inputs)`.

    Attributes:
        weight: the recurrent layer's own parameter.
        parameter: its full name in the network.
        gates: gates in the order of ONNX's operator, as indices into torch's order; empty where rows keep their order.
    """

    def __init__(self, weight: nn.Parameter, parameter: str, gates: tuple[int, ...]) -> None:
        """Share the parameter."""
        super().__init__()
        self.weight, self.parameter, self.gates = weight, parameter, gates


def add_weight_layers(module: nn.Module) -> None:
    """Add a `RecurrentWeight` for each matrix of the recurrent layers of a private copy, in place.

    Its name is the matrix's name without `weight_`: the matrix `lstm.weight_ih_l0` becomes the layer `lstm.ih_l0`.
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
