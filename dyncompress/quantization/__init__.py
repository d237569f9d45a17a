"""Weights to integers, on the tensors' own device: one quantizer a file."""

from dyncompress.quantization.entropy import Entropy
from dyncompress.quantization.entropy_nearest import EntropyNearest
from dyncompress.quantization.gptq import Gptq
from dyncompress.quantization.grid import Grid, decode
from dyncompress.quantization.mse import Mse
from dyncompress.quantization.nearest import Nearest

QUANTIZERS = {"nearest": Nearest, "mse": Mse, "gptq": Gptq, "entropy": Entropy, "entropy_nearest": EntropyNearest}

__all__ = ["QUANTIZERS", "Entropy", "EntropyNearest", "Gptq", "Grid", "Mse", "Nearest", "decode"]
