"""Round weights to integer codes and scales: one quantizer a file, on the device of the tensors.

`QUANTIZERS` maps the name that a recipe writes to its class. A quantizer is called with a weight, an `Observation` of its layer
and a `Choice`, and returns an `Encoding`; `decode` turns an encoding back into a float32 weight.
"""

from typing import Any

from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.entropy_prior import EntropyPrior
from dyncompress.quantization.gptq import Gptq
from dyncompress.quantization.grid import Grid, decode
from dyncompress.quantization.mse import Mse
from dyncompress.quantization.nearest import Nearest

QUANTIZERS = {"nearest": Nearest, "mse": Mse, "gptq": Gptq, "entropy": Entropy, "entropy_prior": EntropyPrior}

__all__ = ["QUANTIZERS", "Entropy", "EntropyPrior", "Gptq", "Grid", "Mse", "Nearest", "decode", "for_choice"]


def for_choice(quantizer: Any, choice: Any) -> Any:
    """The quantizer that does what a quantizer does for a `types.Choice`: a simpler one where the quantizer names one.

    Example:
        >>> from dyncompress.types import Choice
        >>> for_choice(Gptq(), Choice(weight_bits=8)), for_choice(Nearest(), Choice(weight_bits=8)) == Nearest()
        (Mse(grid=Grid(...)), True)
    """
    own = getattr(quantizer, "for_choice", None)
    return quantizer if own is None else own(choice)
