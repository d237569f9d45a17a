"""Weights to integers, on the tensors' own device: one quantizer a file."""

from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.entropy_prior import EntropyPrior
from dyncompress.quantization.gptq import Gptq
from dyncompress.quantization.grid import Grid, decode
from dyncompress.quantization.mse import Mse
from dyncompress.quantization.nearest import Nearest

QUANTIZERS = {"nearest": Nearest, "mse": Mse, "gptq": Gptq, "entropy": Entropy, "entropy_prior": EntropyPrior}

__all__ = ["QUANTIZERS", "Entropy", "EntropyPrior", "Gptq", "Grid", "Mse", "Nearest", "decode"]
