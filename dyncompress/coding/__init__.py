"""Lossless compression of ONNX files, on numpy alone: `pack` writes a container and `unpack` restores the file exactly.

`code_length` estimates the bits that a layer's integer codes take in a container, and `description_bits` is the exact length of a
file's container in bits.

Example:
    >>> is_packed(b"DYNC..."), is_packed(b"another file")
    (True, False)
"""

from dyncompress.coding.container import LIMIT, description_bits, is_packed, pack, unpack
from dyncompress.coding.estimate import code_length

__all__ = ["LIMIT", "code_length", "description_bits", "is_packed", "pack", "unpack"]
