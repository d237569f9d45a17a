"""Weights to integers, on the tensors' own device: one quantizer a file."""

from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.gptq import Gptq
from dyncompress.quantization.grid import Grid, decode
from dyncompress.quantization.mse import Mse
from dyncompress.quantization.nearest import Nearest

QUANTIZERS = {"nearest": Nearest, "mse": Mse, "gptq": Gptq, "entropy": Entropy}

__all__ = ["QUANTIZERS", "Entropy", "Gptq", "Grid", "Mse", "Nearest", "decode"]
