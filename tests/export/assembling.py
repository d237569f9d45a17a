"""Assembles `export/runner/unpack.py` from the room's own source: what reads a container, nothing of what writes one.

`python -m tests.export.assembling` writes the file; a test compares.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "export" / "runner" / "unpack.py"
WRITING = {
    "Writer", "code_length", "is_model", "relative_numbers", "low_bits", "bits_of", "_common_shift", "write_tensor",
    "_smallest", "_path_tag", "_suits", "_split", "_codes", "_planes", "cut_initializers", "_cut_graph", "_cut_tensor", "pack",
    "paths", "allowed", "on_paths", "description_bits", "_lanes", "_compress",
}  # fmt: skip
HEAD = '''"""Unpacks a dyncompress container (small.dync) into its ONNX file, to the byte, on numpy alone.

    python unpack.py small.dync small.onnx

Beside `runner.py`, which imports it. Assembled from `dyncompress/coding` by `python -m tests.export.assembling`; the same
code, function by function, so that both read the same. Change it there. It is one file, and therefore long.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import os
import string
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isqrt, prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np


class InvalidRequest(Exception):  # noqa: N818
    """It is no container, or a newer one."""


class Altered(Exception):  # noqa: N818
    """It was cut or changed."""'''
TAIL = '''


def main(arguments: list[str]) -> int:
    """Unpack one file; the exit codes are the runner's: 0 done, 2 usage or unreadable, 5 altered, 71 memory, 130 interrupted."""
    if len(arguments) != 2:
        print("usage: python unpack.py CONTAINER FILE", file=sys.stderr)
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    part = Path(arguments[1] + ".part")
    try:
        if any(path.exists() and not path.is_file() for path in (source, target)):
            raise InvalidRequest("a directory, a device or a pipe is named; name ordinary files.")
        if target.exists() and target.samefile(source):
            raise InvalidRequest(f"{target} is the container itself; name another file.")
        part.write_bytes(unpack(source.read_bytes()))
        part.replace(target)
    except (OSError, ValueError, MemoryError, InvalidRequest, Altered) as error:
        print(f"error: {error or 'there is not enough memory'}", file=sys.stderr)
        return 5 if isinstance(error, Altered) else 71 if isinstance(error, MemoryError) else 2
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        return 130
    finally:
        if os.path.isfile(part):
            part.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


def assembled() -> str:
    """The text of the file."""
    parts, seen = [HEAD], set()
    for name in ("tables", "rans", "layout", "trellis", "weights", "numbers", "skeleton", "tensors", "container"):
        text = (ROOT / "dyncompress" / "coding" / f"{name}.py").read_text()
        lines = text.splitlines()
        body = ast.parse(text).body
        parts.append(f"\n\n# ---------------------------------------------------------------- {name}")
        before = None
        for node in body[1:]:  # without the docstring
            if isinstance(node, ast.Import | ast.ImportFrom) or names_of(node) & WRITING:
                before = node
                continue
            assert not names_of(node) & seen, f"{name}: {names_of(node) & seen} in two files"
            seen |= names_of(node)
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            while before is not None and first > 1 and lines[first - 2].startswith("#"):
                first -= 1
            blocks = [isinstance(some, ast.ClassDef | ast.FunctionDef) for some in (node, before)]
            gap = "\n\n" if any(blocks) else ""
            parts.append(gap + "\n".join(lines[first - 1 : node.end_lineno]))
            before = node
    return plain_types("\n".join(parts)) + TAIL


def plain_types(text: str) -> str:
    """The text without dtypes and shapes in annotations, whose names the file doesn't import; lines are joined where they fit."""
    text = re.sub(r'\b(Bool|Float|Int|UInt|Integer)\d*\[np\.ndarray, "[^"]*"\]', "np.ndarray", text)

    def joined(match: re.Match[str]) -> str:
        line = re.sub(r"\(\n *| *\n *(?=\))", lambda part: part[0][:1].strip(), match[0])
        return line if len(line) <= 130 else match[0]

    return re.sub(r"^ *def \w+\(\n[^\n]*[^,\n]\n *\) -> [^\n]*:$", joined, text, flags=re.MULTILINE)


def names_of(node: ast.stmt) -> set[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


if __name__ == "__main__":
    TARGET.write_text(assembled())
