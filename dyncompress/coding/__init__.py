"""Codes to bits and back, on numpy alone: what a file takes when it is shipped."""

from dyncompress.coding.container import LIMIT, description_bits, is_packed, pack, unpack
from dyncompress.coding.estimate import code_length

__all__ = ["LIMIT", "code_length", "description_bits", "is_packed", "pack", "unpack"]
