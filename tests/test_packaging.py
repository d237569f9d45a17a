"""The installed package: versions agree, data files are included, and imports are fast."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dyncompress

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is absent in this test")
sys.meta_path.insert(0, Refuse())
"""


def run(code: str) -> str:
    """The standard output of a new interpreter that runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imported_by(statement: str) -> set[str]:
    """The top-level modules that `statement` imports in a new interpreter."""
    names = run(f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(names)}


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert dyncompress.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned_in_constraints() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    extras = PROJECT["project"]["optional-dependencies"].values()
    declared = [*PROJECT["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    pinned, names = ({re.split(r"[<>=\[; ]", d)[0].lower().replace("_", "-") for d in some} for some in (lines, declared))
    assert names <= pinned, f"missing in constraints.txt: {sorted(names - pinned)}"


def test_dependencies_have_no_upper_bound() -> None:
    assert not [d for d in PROJECT["project"]["dependencies"] if "<" in d or "==" in d]


@pytest.mark.parametrize("name", dyncompress.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(dyncompress, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error_that_lists_the_public_ones() -> None:
    with pytest.raises(AttributeError, match="compress, measure"):
        _ = dyncompress.prune  # type: ignore[attr-defined]


def test_importing_the_package_imports_no_framework() -> None:
    heavy = {"torch", "torch_pruning", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "scipy", "numpy", "rich"}
    assert not imported_by("import dyncompress") & heavy


def test_verify_runs_where_torch_and_onnx_are_absent() -> None:
    code = BLOCK.format(blocked=("torch", "torch_pruning", "onnx", "onnx_ir", "onnxscript"))
    code += "import dyncompress\nfrom dyncompress.cli import main\nprint(dyncompress.verify.__name__)"
    assert run(code) == "verify"


def test_certificates_do_not_load_scipy_stats() -> None:
    assert run("import sys, dyncompress.certificates\nprint('scipy.stats' in sys.modules)") == "False"


INSTALL = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
SHIPPED = """
import json, sys, site
site.addsitedir({path!r})
sys.path.insert(0, {path!r})
import dyncompress
from dyncompress.recipe.toml_files import load_recipe, load_target
from dyncompress.recipe.bundled_files import recipe_files, runner_file, target_files
for name in recipe_files(): load_recipe(name)
for name in target_files(): load_target(name)
print(json.dumps([dyncompress.__file__, sorted(recipe_files()), sorted(target_files()), runner_file().is_file()]))
"""


@pytest.mark.parametrize("form", ["checkout", "editable", "wheel"])
def test_recipes_and_targets_are_found_in_every_form_of_installation(form: str, tmp_path: Path) -> None:
    """From the path of a checkout, from `pip install -e`, and from a wheel, each time from another directory."""
    place = ROOT
    if form != "checkout":
        what = [str(ROOT)] if form == "wheel" else ["-e", str(ROOT)]
        done = subprocess.run(
            [*INSTALL, "--prefix", str(tmp_path), "--ignore-installed", *what], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        place = next(tmp_path.glob("lib/python*/site-packages"))
    code = SHIPPED.format(path=str(place))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    home, recipes, targets, runner = json.loads(done.stdout.splitlines()[-1])
    assert Path(home).is_relative_to(tmp_path if form == "wheel" else ROOT)
    assert recipes == sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
    assert targets == sorted(path.stem for path in (ROOT / "export" / "targets").glob("*.toml"))
    assert runner
