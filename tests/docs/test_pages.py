"""The code on the pages runs, top to bottom, and prints what the page says it prints.

On one page, blocks share their names and a folder. A ``python`` or ``toml`` block whose first line is a comment with a file name
is that file. In a ``bash`` block, `dyncompress` and `python` lines run. A ``text`` block behind one of these is its output, with
`...` for what is left out. A block marked `numbers-vary` shows the numbers of one run, which differ between machines. A block
marked `no-test` doesn't run, and the mark says why.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dyncompress import cli, load_target
from dyncompress.deployment import cannot_run_here
from dyncompress.recipe.bundled_files import runner_file

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.(?:py|toml))\n")
ELSEWHERE = {
    "recording.md": "needs five frameworks and a training loop; tests/recording runs every callback",
}
PASSED_OVER = ("pip install ", "python -m venv ", "git ")  # shell lines that prepare a machine
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its mark, its text, and the line of the page."""

    language: str
    mark: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2].strip(), m[3], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def pages() -> Iterator[str]:
    """Pages with code, but for those that are generated or tested elsewhere."""
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).as_posix()
        if name.split("/")[0] in ("_build", "generated", "theory") or name in ELSEWHERE:
            continue
        if any(block.language in ("python", "bash") for block in blocks(page)):
            yield name


def run_shell(lines: str) -> None:
    for line in lines.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.startswith(PASSED_OVER):
            continue
        if words[0] == "dyncompress":
            assert cli.main(words[1:]) == 0, line
        elif words[0] == "python":
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, (line, done.stderr)
            sys.stdout.write(done.stdout)
        else:
            pytest.fail(f"what does this line do? {line}")


# Pages whose code takes more than ten seconds on two cores.
LONG = {"guides/transformer.md", "guides/speech.md", "guides/accuracy.md"}
# Pages that print times, which are measured only on a processor of the target.
TIMED = {"guides/speed.md"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the two files that travel with a compressed one."""
    for name in ("runner.py", "unpack.py"):
        shutil.copy(runner_file().with_name(name), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in pages()])
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")  # torch's exporter, about itself
def test_the_page_runs(name: str, folder: Path) -> None:
    if name in TIMED and (reason := cannot_run_here(load_target("onnxruntime-x86-vnni"))):
        pytest.skip(f"its times can't be measured: {reason}")
    names: dict[str, object] = {"__name__": "__page__"}
    printed = None
    with torch.random.fork_rng(devices=[]):
        for block in blocks(DOCS / name):
            file = FILE.match(block.text)
            if file and block.language in ("python", "toml"):
                (folder / file[1]).write_text(block.text, encoding="utf-8")
                printed = None
            elif block.mark.startswith("no-test"):
                assert len(block.mark) > len("no-test: "), f"{name}, line {block.line}: say why it doesn't run"
                printed = None
            elif block.language in ("python", "bash"):
                printed = ran(block, name, names)
            elif block.language == "text" and printed is not None:
                wanted, got = block.text, printed
                if block.mark == "numbers-vary":
                    wanted, got = NUMBER.sub("#", wanted), NUMBER.sub("#", got)
                told = CHECKER.output_difference(doctest.Example("", wanted), got, FLAGS)
                assert CHECKER.check_output(wanted, got, FLAGS), f"{name}, line {block.line}\n{told}"


def ran(block: Block, name: str, names: dict[str, object]) -> str:
    """What the block prints."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        if block.language == "bash":
            run_shell(block.text)
        else:
            exec(compile("\n" * block.line + block.text, str(DOCS / name), "exec"), names)
    return stream.getvalue()
