"""The verb `convert`: an ONNX file in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyncompress.coding import is_packed, unpack
from dyncompress.coding.skeleton import is_model
from dyncompress.deployment import conversion
from dyncompress.deployment.conversion import Converted
from dyncompress.errors import InvalidRequest
from dyncompress.models.data import as_labelled
from dyncompress.recipe.text_files import read_bytes
from dyncompress.types import OnnxFile


def convert(file: str | Path | OnnxFile, to: str, *, inputs: Any = None) -> Converted:
    """Convert an ONNX file to a format for another compiler or runtime; nothing is written until `save` of the result is called.

    Args:
        file: from `compress` or `export`, or the path of an ONNX file or of its container.
        to: name of the format, such as `encodings` (float ONNX file and AIMET's encodings), `arrays` (NumPy arrays), `ort`
            (onnxruntime's own format), `litert` or `float16` (half precision); `deployment.conversion.CONVERSIONS` lists them.
        inputs: examples on which the result is compared with the file, as `compress` takes calibration data; None: random ones.

    Returns:
        The files of the format, and sentences about them.

    Raises:
        InvalidRequest: there is no such file or format, or it isn't what the format converts.
        Unsupported: the file holds something that the format can't express.
        Differs: the result computes something else than the file.

    Example:
        >>> import torch
        >>> from dyncompress import compress
        >>> net, x = torch.nn.Sequential(torch.nn.Linear(64, 32)), torch.randn(64, 64)
        >>> converted = convert(compress(net, calibration=x), "encodings")
        >>> sorted(converted.files)
        ['encodings.json', 'model.onnx']
    """
    content = file.content if isinstance(file, OnnxFile) else _read(Path(file))
    named = None
    if inputs is not None:
        from dyncompress.deployment.session import PLAIN, Session

        named = as_labelled(inputs, Session(content, PLAIN).input_names).inputs
    return conversion.convert(content, to, named)


def _read(path: Path) -> bytes:
    """The bytes of an ONNX file, taken out of its container if it is in one.

    Raises:
        InvalidRequest: there is no such file, or it is no ONNX file.
    """
    content = read_bytes(path, f"'{path}'")
    content = unpack(content) if is_packed(content) else content
    if not is_model(content):
        raise InvalidRequest(f"'{path}' is truncated or no ONNX file; name a model.onnx.")
    return content
