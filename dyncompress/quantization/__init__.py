"""Round weights to integer codes and scales: one quantizer a file, on the device of the tensors.

`QUANTIZERS` maps the name that a recipe writes to its class. A quantizer is called with a weight, an `Observation` of its layer
and a `Choice`, and returns an `Encoding`; `decode` turns an encoding back into a float32 weight.
"""

from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.entropy_prior import EntropyPrior
from dyncompress.quantization.gptq import Gptq
from dyncompress.quantization.grid import Grid, decode
from dyncompress.quantization.mse import Mse
from dyncompress.quantization.nearest import Nearest

QUANTIZERS = {"nearest": Nearest, "mse": Mse, "gptq": Gptq, "entropy": Entropy, "entropy_prior": EntropyPrior}

__all__ = ["QUANTIZERS", "Entropy", "EntropyPrior", "Gptq", "Grid", "Mse", "Nearest", "decode"]
