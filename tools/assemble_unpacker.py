"""Write `export/runner/unpack.py`: the code of `dyncompress/coding` that reads a container, in one file that needs only numpy.

    python -m tools.assemble_unpacker            # write the file
    python -m tools.assemble_unpacker --check    # exit with 1 if the file isn't current

The file holds the function `unpack` and every class, function and constant that it uses, directly or indirectly, with the text
that they have in the package. What only writing a container needs is left out.
"""

from __future__ import annotations

import argparse
import ast
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "export" / "runner" / "unpack.py"
ENTRY = "unpack"
MODULES = ("tables", "rans", "layout", "trellis", "weights", "numbers", "skeleton", "tensors", "container")
HEAD_IMPORTS = ("import os", "import sys", "from pathlib import Path", "import numpy as np")  # what HEAD and TAIL use
HEAD = '''"""Unpacks a dyncompress container (small.dync) into its ONNX file, to the byte, on numpy alone.

    python unpack.py small.dync small.onnx

`runner.py`, in the same directory, imports it. It is generated from `dyncompress/coding` by
`python -m tools.assemble_unpacker`: change the code there. It is a single file, and therefore long.
"""

from __future__ import annotations

{imports}


class InvalidRequest(Exception):  # noqa: N818
    """The file isn't a container, or one of a newer version."""


class Altered(Exception):  # noqa: N818
    """The container was cut off or changed."""'''
PAIRWISE = '''def pairwise(values):
    """Each value with the next one, as itertools has it from Python 3.10 on."""
    return zip(values, values[1:])  # noqa: RUF007
'''
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


@dataclass(frozen=True)
class Definition:
    """A statement at the top of a module that defines names.

    Attributes:
        module: its module.
        names: that it defines.
        uses: names of the module's top that it reads.
        text: with the comment lines directly above it.
        is_block: whether it is a class or a function, which blank lines separate from others.
    """

    module: str
    names: frozenset[str]
    uses: frozenset[str]
    text: str
    is_block: bool


@dataclass(frozen=True)
class Module:
    """The top of a module.

    Attributes:
        definitions: in their order.
        imports: imported name -> the statement that imports it alone, for modules outside the package.
    """

    definitions: tuple[Definition, ...]
    imports: dict[str, str]


def assemble() -> str:
    """The text of the file."""
    modules = {name: read_module(name) for name in MODULES}
    needed = reachable([definition for module in modules.values() for definition in module.definitions])
    parts: list[str] = []
    imports: set[str] = {*HEAD_IMPORTS}
    for name, module in modules.items():
        parts.append(f"\n\n# ---------------------------------------------------------------- {name}")
        before = None
        for definition in module.definitions:
            if definition in needed:
                gap = "\n\n" if definition.is_block or (before and before.is_block) else ""
                parts.append(gap + definition.text)
                imports |= {statement for used, statement in module.imports.items() if used in definition.uses}
                before = definition
    return for_old_python("\n".join([HEAD.format(imports=import_block(imports)), *parts]) + TAIL)


def for_old_python(text: str) -> str:
    """The text in the form that Python 3.9, which devices have, runs: `zip` without `strict`, and `pairwise` defined here."""
    text = text.replace(", strict=True)", ")").replace("from itertools import pairwise\n", "")
    return text.replace("\n\nclass InvalidRequest", f"\n\n{PAIRWISE}\n\nclass InvalidRequest", 1) if "pairwise(" in text else text


def reachable(definitions: list[Definition]) -> set[Definition]:
    """The definitions that `unpack` needs.

    Raises:
        ValueError: two of them define the same name, which one file can't hold.
    """
    by_name: dict[str, list[Definition]] = {}
    for definition in definitions:
        for name in definition.names:
            by_name.setdefault(name, []).append(definition)
    needed, waiting = set(), [ENTRY]
    while waiting:
        name = waiting.pop()
        found = by_name.get(name, [])
        if len(found) > 1:
            raise ValueError(f"'{name}' is defined in {' and '.join(d.module for d in found)}; rename one.")
        for definition in found:
            if definition not in needed:
                needed.add(definition)
                waiting += definition.uses
    return needed


def read_module(name: str) -> Module:
    """Read the statements at the top of a module of `dyncompress/coding`.

    Raises:
        ValueError: there is a statement that is neither a docstring, an import nor a definition.
    """
    text = with_plain_arrays((ROOT / "dyncompress" / "coding" / f"{name}.py").read_text())
    lines, definitions, imports = text.splitlines(), [], {}
    globals_of = global_names(text)
    for node in ast.parse(text).body[1:]:  # without the docstring
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(external_imports(node))
            continue
        names = defined_names(node)
        if not names:
            raise ValueError(f"coding/{name}.py, line {node.lineno}: neither an import nor a definition; put it into a function.")
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while lines[first - 2].startswith("#"):
            first -= 1
        uses = loaded_names(node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            uses = outer_names(node) | globals_of[node.name]
        is_block = isinstance(node, ast.ClassDef | ast.FunctionDef)
        body = "\n".join(lines[first - 1 : node.end_lineno])
        definitions.append(Definition(name, frozenset(names), frozenset(uses), body, is_block))
    return Module(tuple(definitions), imports)


def with_plain_arrays(text: str) -> str:
    """The text of a module with `np.ndarray` in place of `Float[np.ndarray, "n d"]` and other types of `types.arrays`."""
    tree = ast.parse(text)
    arrays = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "dyncompress.types.arrays"]
    names = {alias.name for node in arrays for alias in node.names}
    lines = text.splitlines(keepends=True)
    for node in sorted(
        ast.walk(tree), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0)), reverse=True
    ):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert isinstance(node.slice, ast.Tuple) and node.lineno == node.end_lineno, (
                f"line {node.lineno}: write it on one line"
            )
            line = lines[node.lineno - 1].encode()  # columns count bytes
            array = ast.unparse(node.slice.elts[0]).encode()
            lines[node.lineno - 1] = (line[: node.col_offset] + array + line[node.end_col_offset :]).decode()
    return "".join(lines)


def defined_names(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def loaded_names(*nodes: ast.AST) -> set[str]:
    """The names that some code reads."""
    return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load)}


def outer_names(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """The names in decorators, bases, annotations and default values, which belong to the scope around a class or a function."""
    parts: list[ast.AST] = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef):
            parts += inner.decorator_list
        if isinstance(inner, ast.ClassDef):
            parts += inner.bases
        if isinstance(inner, ast.arguments):
            parts += [*inner.defaults, *(default for default in inner.kw_defaults if default is not None)]
        parts += [part for field in ("annotation", "returns") if (part := getattr(inner, field, None)) is not None]
    return loaded_names(*parts)


def global_names(text: str) -> dict[str, set[str]]:
    """Function or class at the top of a module -> the global names that its code reads; local variables aren't among them."""

    def of_table(table: symtable.SymbolTable) -> set[str]:
        own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        return own.union(*(of_table(child) for child in table.get_children()))

    return {table.get_name(): of_table(table) for table in symtable.symtable(text, "module", "exec").get_children()}


def external_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """Imported name -> the statement that imports it alone; none for imports of the package itself."""
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    if any(name.partition(".")[0] in ("__future__", "dyncompress") for name in names):
        return
    for alias in node.names:
        single = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
        yield (alias.asname or alias.name).partition(".")[0], ast.unparse(single)


def import_block(statements: set[str]) -> str:
    """The import statements in the order that ruff sorts them: the standard library first, names of one module together."""
    plain, by_module, outside = [], {}, []
    for statement in sorted(statements):
        module = statement.split()[1]
        if module == "numpy":
            outside.append(statement)
        elif statement.startswith("import "):
            plain.append(statement)
        else:
            by_module.setdefault(module, []).append(statement.partition(" import ")[2])
    grouped = [f"from {module} import {', '.join(sorted(names, key=_sort_key))}" for module, names in sorted(by_module.items())]
    return "\n".join([*plain, *grouped]) + "\n\n" + "\n".join(outside)


def _sort_key(name: str) -> tuple[int, str]:
    """Constants before classes before functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def main(arguments: list[str]) -> int:
    """Write the file, or check it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.assemble_unpacker", description="Write export/runner/unpack.py.")
    parser.add_argument("--check", action="store_true", help="only check that the file is current; exit with 1 if it isn't")
    text = assemble()
    if parser.parse_args(arguments).check:
        current = TARGET.read_text() == text
        if not current:
            print(f"{TARGET.relative_to(ROOT)} isn't current; run `python -m tools.assemble_unpacker`.", file=sys.stderr)
        return 0 if current else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
