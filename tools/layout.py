"""Measure the layout of the package: entries at the root, floors, circles, long files and functions, many parameters.

    python -m tools.layout

Prints one line for each figure, and what exceeds its limit. `tests/test_architecture.py` holds the package to the limits.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "dyncompress"
ENTRIES, FLOORS, FILE_LINES, FUNCTION_LINES, PARAMETERS, VERB_PARAMETERS = 18, 8, 400, 60, 5, 8
LATE = "types.presentation"  # methods that a person calls on a value import the packages above it when they are called
VERBS = {"pipeline.verbs.measure", "pipeline.verbs.apply", "pipeline.verbs.certify", "pipeline.verbs.compress"}
VERBS |= {"pipeline.selection.ranking.rank", "models.torch.sgd_probe.probe"}  # public names of `dyncompress`
VERBS |= {"pipeline.comparison.compare_allocators.compare"}
FOREIGN = {"forward"}  # signatures that another library prescribes


@dataclass(frozen=True)
class Layout:
    """The modules of the package and what they import from one another.

    Attributes:
        root: folder of the package.
    """

    root: Path = ROOT

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Dotted module name without the package's own -> syntax tree; the package itself is the empty name."""
        trees = {}
        for path in sorted(self.root.rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
        return trees

    @cached_property
    def entries(self) -> list[str]:
        """Modules and packages at the package's root."""
        return sorted(p.name for p in self.root.iterdir() if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists()))

    def imports(self, module: str) -> set[str]:
        """Modules of the package that a module imports anywhere, in functions and for types alone too."""
        found = set()
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == self.root.name:
                base = (node.module or "")[len(self.root.name) :].lstrip(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}".lstrip(".")
                    found.add(full if full in self.trees else base)
        return found - {module, ""}

    @cached_property
    def packages(self) -> dict[str, set[str]]:
        """Entry of the root -> the other entries that it imports."""
        graph: dict[str, set[str]] = {}
        for module in self.trees:
            entry = module.partition(".")[0] or "__init__"
            graph.setdefault(entry, set())
            if module != LATE:
                graph[entry] |= {name.partition(".")[0] for name in self.imports(module)} - {entry}
        return graph

    @cached_property
    def floors(self) -> dict[str, int]:
        """Entry -> its floor: 1 imports nothing of the package, n imports something on floor n - 1."""
        floors: dict[str, int] = {}
        for entry in TopologicalSorter(self.packages).static_order():
            floors[entry] = 1 + max((floors[other] for other in self.packages.get(entry, ())), default=0)
        return floors

    def circle(self) -> list[str]:
        """Modules that import each other in a circle, imports in functions and for types counted; empty without one."""
        graph = {module: self.imports(module) for module in self.trees if module not in ("", LATE)}
        for graph_of in (graph, self.packages):
            try:
                tuple(TopologicalSorter(graph_of).static_order())
            except CycleError as error:
                return list(error.args[1])
        return []

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        """Every function with its module."""
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield module, node

    def long_files(self) -> dict[str, int]:
        """Module -> lines, where there are too many."""
        sizes = {str(path.relative_to(self.root)): len(path.read_text().splitlines()) for path in self.root.rglob("*.py")}
        return {name: lines for name, lines in sizes.items() if lines > FILE_LINES}

    def long_functions(self) -> dict[str, int]:
        """Function -> lines, where there are too many."""
        sizes = {f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1 for module, node in self.functions()}
        return {name: lines for name, lines in sizes.items() if lines > FUNCTION_LINES}

    def many_parameters(self) -> dict[str, int]:
        """Function -> parameters, where there are too many; `self` and `cls` aren't counted."""
        many = {}
        for module, node in self.functions():
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in given if argument.arg not in ("self", "cls")])
            name = f"{module}.{node.name}"
            if count > (VERB_PARAMETERS if name in VERBS else PARAMETERS) and node.name not in FOREIGN:
                many[name] = count
        return many


def main() -> int:
    """Print every figure; 1 where one is beyond its limit."""
    layout = Layout()
    circle = layout.circle()
    figures = [
        ("modules and packages at the root", len(layout.entries), ENTRIES, ", ".join(layout.entries)),
        ("floors", 0 if circle else max(layout.floors.values()), FLOORS, ""),
        ("modules in a circle", len(circle), 0, " -> ".join(circle)),
        (f"files over {FILE_LINES} lines", len(layout.long_files()), 0, layout.long_files() or ""),
        (f"functions over {FUNCTION_LINES} lines", len(layout.long_functions()), 0, layout.long_functions() or ""),
        (f"functions over {PARAMETERS} parameters", len(layout.many_parameters()), 0, layout.many_parameters() or ""),
    ]
    for name, value, limit, detail in figures:
        sys.stdout.write(f"{name}: {value} (limit {limit}) {detail}".rstrip() + "\n")
    return int(any(value > limit for _, value, limit, _ in figures))


if __name__ == "__main__":
    sys.exit(main())
