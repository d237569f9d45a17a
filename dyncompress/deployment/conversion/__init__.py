"""Write an ONNX file in another format, for compilers and runtimes that don't read it as it is.

Every format is a module of this package with a function `convert(content, inputs)`. It takes the bytes of an ONNX file, and
inputs on which it compares what it writes with that file, or None. The index holds no functions, so that the names of the formats
are known without importing onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dyncompress.coding.whole_files import check_writable, check_writable_file, deliver
from dyncompress.deployment.seal import is_sealed, unseal
from dyncompress.errors import InvalidRequest, nearest

Inputs = Mapping[str, Any]  # name -> array; numpy isn't imported for the list of formats alone

UNCERTIFIED = "the certificate is about the ONNX file as onnxruntime runs it, and not about what it was converted to."


@dataclass(frozen=True)
class Conversion:
    """A format.

    Attributes:
        summary: what reads it, for lists.
        suffix: of the file that is written; empty: a folder of files is written.
        module: in this package.
    """

    summary: str
    suffix: str
    module: str


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        files: name -> content; a format with a suffix has one file.
        notes: sentences about what the result is and what it isn't.

    Example:
        >>> import tempfile
        >>> from dyncompress.deployment.conversion import Converted
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in Converted({"model.ort": b"..."}, (), ".ort").save(f"{folder}/small.ort")]
        ['small.ort']
    """

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    suffix: str = ""

    def save(self, path: str | Path) -> list[Path]:
        """Write the file, or all files into a folder, or nothing.

        Args:
            path: of the file, or of the folder for a format of several files.

        Returns:
            The paths of the files.

        Raises:
            InvalidRequest: the path is that of a folder where a file is to be written, or the reverse, or can't be written.
        """
        path = Path(path)
        check_place(path, self.suffix)
        if not self.suffix:
            return list(deliver(path, self.files).values())
        (content,) = self.files.values()
        return list(deliver(path.parent, {path.name: content}).values())


CONVERSIONS: Mapping[str, Conversion] = {
    "encodings": Conversion("float ONNX file and AIMET's encodings, for compilers that quantize by themselves", "", "encodings"),
    "arrays": Conversion(
        "codes, scales and the order of operators as NumPy arrays, for FPGAs and code of one's own", ".npz", "arrays"
    ),
    "ort": Conversion("onnxruntime's own format, for builds with few operators", ".ort", "ort"),
    "float16": Conversion("float ONNX file that computes in half precision, for GPUs and phones", ".onnx", "float16"),
    "litert": Conversion("LiteRT (TensorFlow Lite) with the same codes, for phones and boards", ".tflite", "litert"),
}


def convert(content: bytes, to: str, inputs: Inputs | None = None) -> Converted:
    """Convert an ONNX file.

    Args:
        content: the bytes of the ONNX file, sealed or not.
        to: name of a format, a key of `CONVERSIONS`.
        inputs: name -> array, on which the result is compared with the file; None: random ones of the file's shapes.

    Returns:
        The files of the format. Nothing is written.

    Raises:
        InvalidRequest: there is no such format, or the bytes aren't what it converts.
        Unsupported: the file holds something that the format can't express.
        Altered: the file was changed after it was sealed.
        Differs: the result computes something else than the file.
    """
    if to not in CONVERSIONS:
        raise InvalidRequest(f"there is no format '{to}'{nearest(to, CONVERSIONS)}")
    entry, sealed = CONVERSIONS[to], is_sealed(content)
    if sealed:
        unseal(content)
    result = import_module(f"{__name__}.{entry.module}").convert(content, inputs)
    certified = (UNCERTIFIED,) if sealed else ()
    return Converted(result.files, (*result.notes, *certified), entry.suffix)


def check_place(path: Path, suffix: str) -> None:
    """Refuse a path that can't be written, before any work.

    Args:
        path: of the file, or of the folder for a format of several files.
        suffix: of the format.

    Raises:
        InvalidRequest: the sentence says why.
    """
    check_writable_file(path) if suffix else check_writable(path)
