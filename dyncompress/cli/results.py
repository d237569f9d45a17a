"""The result of a command, and the ONNX files that commands read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyncompress.cli.exit_codes import DONE
from dyncompress.errors import InvalidRequest
from dyncompress.recipe.text_files import is_directory, is_file


@dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes:
        text: for people.
        data: for machines, printed by `--json`.
        code: exit code.
    """

    text: str
    data: dict[str, Any]
    code: int = DONE


def input_file(path: Path, name: str) -> Path:
    """The path of a file, or of the file `name` in it if it is a directory.

    Raises:
        InvalidRequest: there is no such file.
    """
    file = path / name if is_directory(path) else path
    if not is_file(file, f"'{path}'"):
        raise InvalidRequest(f"'{file}': there is no such file.")
    return file


def read_onnx(path: Path) -> bytes:
    """Read an ONNX file.

    Raises:
        InvalidRequest: it is a container, truncated, no ONNX file, or its weights are stored in other files.
    """
    from dyncompress.coding.external import refuse_external

    content = read_model(path)
    refuse_external(content, f"'{path}'")
    return content


def read_model(path: Path) -> bytes:
    """Read an ONNX file whose weights may be stored in other files.

    Raises:
        InvalidRequest: it is a container, truncated, or no ONNX file.
    """
    from dyncompress.coding import is_packed
    from dyncompress.coding.skeleton import is_model

    content = path.read_bytes()
    if is_packed(content):
        raise InvalidRequest(f"'{path}' is a container; take the ONNX file out of it with `dyncompress unpack {path}`.")
    if not is_model(content):
        raise InvalidRequest(f"'{path}' is truncated or no ONNX file; name a model.onnx.")
    return content
