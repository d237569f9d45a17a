"""The files for devices keep to Python 3.9: its grammar, its built-in functions, and no unions of types at run time."""

import ast
from pathlib import Path

import pytest

from dyncompress.recipe.bundled_files import runner_file

FILES = [runner_file().with_name(name) for name in ("runner.py", "unpack.py")]
NEWER = {"pairwise", "Self", "ParamSpec", "TypeAlias", "assert_never"}  # names of the standard library from 3.10 on


def inside_annotations(tree: ast.AST) -> set[ast.AST]:
    """All nodes inside annotations, which aren't evaluated."""
    fields = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    return {part for field in fields if isinstance(field, ast.AST) for part in ast.walk(field)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_for_devices_keeps_to_an_old_python(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    unevaluated = inside_annotations(tree)
    types = {"int", "str", "bytes", "float", "list", "dict", "tuple", "set", "bool"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            assert not node.keywords, f"{path.name}, line {node.lineno}: zip has no strict"
        if isinstance(node, ast.ImportFrom):
            assert not NEWER & {alias.name for alias in node.names}, f"{path.name}, line {node.lineno}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and node not in unevaluated:
            sides = {side.id for side in (node.left, node.right) if isinstance(side, ast.Name)}
            assert not sides & types, f"{path.name}, line {node.lineno}: a union of types"
        assert not isinstance(node, ast.Match), f"{path.name}: match"
