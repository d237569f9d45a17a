"""The rules of the code, read off the syntax trees: who may import what, no circles, small files and functions, no prints."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools import layout

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = layout.Layout()
# The verbs that took `free_axes`, `keep_float` and `example` beside the eight parameters that a verb may have.
MANY_PARAMETERS = {"pipeline.verbs.apply": 9, "pipeline.verbs.compress": 11}
PACKAGE = ROOT / "dyncompress"
FILES = sorted(PACKAGE.rglob("*.py"))
VERBS_LINES = 220  # 150 of code and arguments, and an example for every verb
FORBIDDEN_NAMES = {"utils", "helpers", "misc", "common", "core", "manager", "engine", "factory"}


@dataclass(frozen=True)
class Rule:
    """What a package may import from outside (the standard library always) and of the others."""

    outside: frozenset[str]
    inside: frozenset[str]


def rule(outside: str, inside: str) -> Rule:
    return Rule(frozenset(outside.split()), frozenset(inside.split()))


# A longer key wins: `recording.sketch` before `recording`. Every package has its own line, and there is none for the others.
RULES = {
    "": rule("", "errors models pipeline recipe recording types"),  # the public names, each loaded on first use
    "errors": rule("", ""),
    "types": rule("numpy", "errors"),
    # Methods that a person calls on a value need the packages above it: they are here, and import when they are called.
    "types.presentation": rule("", "types reports"),
    "linalg": rule("torch numpy threadpoolctl", "errors types.arrays"),
    "recording.sketch": rule("torch", ""),
    "coding": rule("numpy constriction", "errors types"),
    "measures": rule("numpy scipy", "types errors coding"),
    "allocation": rule("numpy scipy", "types errors coding"),
    "certificates": rule("numpy scipy", "types errors coding"),
    "pruning": rule("torch", "types errors linalg"),
    "quantization": rule("torch numpy", "types errors linalg coding"),
    "models.torch": rule("torch torch_pruning onnx onnx_ir onnxscript numpy", "types errors linalg coding models recording"),
    "models.onnx": rule("torch onnx onnx_ir onnxruntime numpy google", "types errors models"),
    "models": rule("torch numpy", "types errors coding"),
    "deployment.conversion.litert": rule("onnx onnx_ir onnxscript numpy ai_edge_litert flatbuffers", "types errors coding"),
    "deployment": rule("google onnx onnx_ir onnxscript onnxruntime numpy scipy ml_dtypes", "types errors coding"),
    "recording.lightning_callback": rule("lightning pytorch_lightning", "types errors"),
    "recording.transformers_callback": rule("transformers torch", "types errors"),
    "recording.keras_callback": rule("keras numpy", "types errors"),
    "recording.optax_transform": rule("jax optax numpy", "types errors"),
    "recording.training_states": rule("torch numpy safetensors", "types errors coding"),
    "recording.training_states.optax_state": rule("jax torch numpy", "types errors"),
    "recording.training_states.keras_file": rule("h5py torch numpy", "types errors coding"),
    "recording.training_states.trainer_folder": rule("torch transformers", "types errors"),
    "recording.training_states.keras_variables": rule("numpy", ""),
    "recording": rule("torch numpy", "types errors coding recording.sketch"),
    "recipe": rule("numpy", "types errors coding measures allocation pruning quantization certificates"),
    "pipeline": rule("torch numpy safetensors", "* !cli !reports"),
    "reports": rule("numpy matplotlib", "types errors coding recipe certificates allocation deployment.certificate_file"),
    "cli": rule("rich numpy torch safetensors", "*"),
    "cli.demo": rule("torch numpy sklearn", "*"),
    "__main__": rule("", "cli"),
}
CATCH_EVERYTHING = {"cli.commands", "models.user_code"}  # the end of a command, and code that isn't ours


def module_of(path: Path) -> str:
    """Dotted name inside the package, without `__init__`; empty for the package itself."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rule_of(module: str) -> Rule:
    fitting = [key for key in RULES if module == key or (key and module.startswith(key + "."))]
    return RULES[max(fitting, key=len)]


def trees() -> dict[str, ast.Module]:
    return {module_of(path): ast.parse(path.read_text(), str(path)) for path in FILES}


TREES = trees()
MODULES = frozenset(TREES)


def statements(tree: ast.AST, *, lazily: bool) -> Iterator[ast.stmt]:
    """Import statements; `lazily` counts those inside functions too. Imports for types alone are counted."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif lazily or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, lazily=lazily)


def imports(module: str, *, lazily: bool = True) -> set[str]:
    """Dotted names that a module imports; `from a import b` counts as `a.b` where that is a module, else as `a`."""
    found = set()
    for node in statements(TREES[module], lazily=lazily):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the package; write the whole name"
            base = node.module or ""
            inner = {alias.name for alias in node.names if f"{base}.{alias.name}".removeprefix("dyncompress.") in MODULES}
            found |= {f"{base}.{name}" for name in inner}
            if len(inner) < len(node.names):
                found.add(base)
    return found


def inside(module: str, *, lazily: bool = True) -> set[str]:
    """Packages and files of the library that a module imports, without the leading `dyncompress.`."""
    found = {name for name in imports(module, lazily=lazily) if name.partition(".")[0] == "dyncompress"}
    return {name.removeprefix("dyncompress").removeprefix(".") for name in found}


def allowed_inside(name: str, module: str, allowed: frozenset[str]) -> bool:
    package = module.partition(".")[0]
    refused = {word.removeprefix("!") for word in allowed if word.startswith("!")}
    if name.partition(".")[0] in refused:
        return False
    return "*" in allowed or name.partition(".")[0] == package or any(name == a or name.startswith(a + ".") for a in allowed)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_package_imports_only_what_its_line_allows(module: str) -> None:
    line = rule_of(module)
    outside = {n.partition(".")[0] for n in imports(module)} - set(sys.stdlib_module_names) - {"dyncompress", "jaxtyping"}
    foreign = sorted(outside - line.outside)
    assert not foreign, f"{module} imports {foreign}; it may import {sorted(line.outside)}"
    wrong = sorted(name for name in inside(module) if not allowed_inside(name, module, line.inside))
    assert not wrong, f"{module} imports {wrong} of the package; it may import {sorted(line.inside)}"


def test_there_is_no_circle_and_few_floors() -> None:
    assert not LAYOUT.circle(), " -> ".join(LAYOUT.circle())
    assert max(LAYOUT.floors.values()) <= layout.FLOORS, LAYOUT.floors


def test_the_root_is_small_and_every_package_has_its_line() -> None:
    assert len(LAYOUT.entries) <= layout.ENTRIES, LAYOUT.entries
    entries = {name.removesuffix(".py").removeprefix("__init__") for name in LAYOUT.entries}
    assert entries <= set(RULES), sorted(entries - set(RULES))
    assert (PACKAGE / "py.typed").exists()


def test_torch_pruning_lives_in_one_file() -> None:
    users = {module for module in MODULES if any(n.partition(".")[0] == "torch_pruning" for n in imports(module))}
    assert users == {"models.torch.channels"}


def test_certificates_never_import_scipy_stats() -> None:
    modules = [module for module in MODULES if module.startswith("certificates")]
    assert not [module for module in modules if any(name.startswith("scipy.stats") for name in imports(module))]


def test_the_runner_imports_nothing_of_the_package() -> None:
    for path in sorted((ROOT / "export" / "runner").rglob("*.py")):
        names = {alias.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for alias in n.names}
        names |= {n.module or "." for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert outside <= {"numpy", "onnxruntime"}, path


@pytest.mark.parametrize("module", sorted(MODULES - {"cli.commands"}))
def test_only_the_command_line_prints(module: str) -> None:
    lines = [n.lineno for n in ast.walk(TREES[module]) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert not lines, f"{module} prints in lines {lines}; return the text, or report through progress"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_one_idea(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES, f"{path.stem} says nothing about what lies inside"
    lines = len(path.read_text().splitlines())
    limit = VERBS_LINES if path == PACKAGE / "pipeline" / "verbs.py" else layout.FILE_LINES
    assert lines <= limit, f"{lines} lines; split it by idea"


def test_functions_are_short_and_take_few_parameters() -> None:
    assert not LAYOUT.long_functions()
    assert LAYOUT.many_parameters() == MANY_PARAMETERS


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_catches_everything(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            everything = caught in {"", "Exception", "BaseException"} and module not in CATCH_EVERYTHING
            assert not everything, f"{module}:{node.lineno} catches everything"


def test_only_protocols_are_inherited() -> None:
    known = {"Protocol", "Exception", "NamedTuple", "TypedDict", "Enum", "StrEnum", "TorchFunctionMode"}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(b).rpartition(".")[2].partition("[")[0] for b in node.bases}
                own = {b for b in bases if b.endswith("Error")} | {"Module", "Function", "HTMLParser", "TorchFunctionMode"}
                own |= {"Callback", "TrainerCallback"}  # what other frameworks' trainers call
                assert bases <= known | own, f"{module}.{node.name} inherits {sorted(bases)}; only Protocols are inherited"
