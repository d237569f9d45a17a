"""Tries the versions that `pyproject.toml` allows: an environment of the oldest ones, and tests in it.

    python tools/oldest_versions.py                                         # the lower bounds, on this Python
    python tools/oldest_versions.py --python python3.13 --pins constraints.txt      # the pinned versions, on another
    python tools/oldest_versions.py --environment /tmp/oldest tests/models  # keep the environment, run some tests only

Each check prints one line; what was installed and how the tests ended goes to `tools/results/oldest_versions.json`, an entry for
each pair of Python and pins. On Linux, PyPI's torch is the CUDA build, several gigabytes; it runs without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "results" / "oldest_versions.json"
EXTRAS = ("test", "plots")  # beside the dependencies: what the tests below need
TESTS = (
    *("tests/pipeline/test_verbs.py", "tests/coding", "tests/certificates", "tests/deployment", "tests/export"),
    *(
        "tests/models/torch",
        "tests/models/onnx/test_files.py",
        "tests/models/onnx/test_odd_graphs.py",
        "tests/measures",
        "tests/recording",
    ),
)
MINUTES = 10.0
INTERRUPTED = 2  # pytest's exit code
OUTCOMES = ("passed", "failed", "error", "skipped")
# Warnings are errors in the tests. Those of old versions about one another are no fault of this package.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", "--tb=no", "-rfE")


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        folder: where it lies.
        python: the command that makes it, e.g. `python3.13`.
    """

    folder: Path
    python: str

    @property
    def executable(self) -> str:
        """Its own Python."""
        return str(self.folder / ("Scripts" if os.name == "nt" else "bin") / "python")

    def install(self, arguments: Sequence[str]) -> str:
        """Make it where it isn't there, and install; the last lines that pip printed where it failed, else empty."""
        if not Path(self.executable).exists():
            subprocess.run([self.python, "-m", "venv", self.folder], check=True)
        pip = [self.executable, "-m", "pip", "install", "--quiet", *arguments]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else "\n".join(done.stderr.strip().splitlines()[-8:])

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """Version of Python and of each named package that is installed."""
        code = (
            "import importlib.metadata as m, json, platform, sys\n"
            "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
            "print(json.dumps({'python': platform.python_version()} | {n: found[n] for n in sys.argv[1:] if n in found}))"
        )
        done = subprocess.run([self.executable, "-c", code, *names], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def tested(self, path: str, minutes: float) -> dict[str, Any]:
        """How many tests of a path passed, failed, ended in an error and were skipped.

        `finished` says whether they ended within the minutes, `failures` which tests failed.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [self.executable, *PYTEST, path]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            text, _ = process.communicate(timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then still prints its counts
            text, _ = process.communicate()
        failures = [line.split(" ", 1)[1].split(" - ")[0] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return {"finished": process.returncode != INTERRUPTED, **counts(text), "failures": failures}


def counts(text: str) -> dict[str, int]:
    """The counts of the last line that pytest prints.

    Example:
        >>> counts("1 failed, 3 passed, 2 errors in 0.12s")
        {'passed': 3, 'failed': 1, 'error': 2, 'skipped': 0}
    """
    last = next((line for line in reversed(text.splitlines()) if re.search(r"\bin [\d.]+s", line)), "1 error")
    found = {word.removesuffix("s"): int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
    return {name: found.get(name, 0) for name in OUTCOMES}


def requirements() -> list[str]:
    """Dependencies of the package and of the extras that the tests need, as `pyproject.toml` writes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in EXTRAS for requirement in project["optional-dependencies"][extra]]
    return list(dict.fromkeys([*project["dependencies"], *extras]))


def lower_bound(requirement: str) -> str:
    """A requirement at the oldest version that it allows.

    Example:
        >>> lower_bound("scipy>=1.12")
        'scipy==1.12'
    """
    return requirement.replace(">=", "==")


def name_of(requirement: str) -> str:
    """The package's name, as it is compared.

    Example:
        >>> name_of("ml_dtypes>=0.5")
        'ml-dtypes'
    """
    return re.split(r"[<>=\[; ]", requirement)[0].lower().replace("_", "-")


def save(key: str, versions: dict[str, str], outcomes: dict[str, dict[str, Any]]) -> None:
    """Put outcomes into the file of results; those of other paths stay if they were of the same versions.

    Args:
        key: names the Python and the pins.
        versions: package -> version.
        outcomes: path -> how its tests ended.
    """
    entries = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    before = entries.get(key, {})
    kept = before["tests"] if before.get("versions") == versions else {}
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    entries[key] = {"date": today, "versions": versions, "tests": {**kept, **outcomes}}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n", encoding="utf-8")


def run(environment: Environment, pins: str, tests: Sequence[str], minutes: float) -> bool:
    """Install, test, print and save; whether all is well."""
    arguments = [*requirements(), "-c", pins] if pins else [lower_bound(requirement) for requirement in requirements()]
    trouble = environment.install(arguments)
    print(f"install: {trouble or 'done'}", flush=True)
    if trouble:
        return False
    versions = environment.versions(map(name_of, requirements()))
    print("versions:", ", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    key = f"python {'.'.join(versions['python'].split('.')[:2])}, {Path(pins).name if pins else 'lower bounds'}"
    outcomes: dict[str, dict[str, Any]] = {}
    for path in tests:
        found = outcomes[path] = environment.tested(path, minutes)
        told = ", ".join(f"{found[name]} {name}" for name in OUTCOMES if found[name])
        print(f"{path}: {told}{'' if found['finished'] else ' (stopped after the time allowed)'}", flush=True)
        for test in found["failures"]:
            print(f"    {test}", flush=True)
        save(key, versions, outcomes)
    return all(found["finished"] and not found["failed"] and not found["error"] for found in outcomes.values())


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0 where everything installed and passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=TESTS, metavar="PATH", help="files and folders of tests")
    parser.add_argument("--python", default=sys.executable, help="the Python that makes the environment")
    parser.add_argument("--pins", default="", metavar="FILE", help="versions to install in place of the lower bounds")
    parser.add_argument("--environment", default="", metavar="FOLDER", help="keep the environment here; none: a temporary one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the most that each path of tests may take")
    options = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and hand that on to pytest
    with tempfile.TemporaryDirectory() as temporary:
        environment = Environment(Path(options.environment or temporary).absolute(), options.python)
        return 0 if run(environment, options.pins, options.tests, options.minutes) else 1


if __name__ == "__main__":
    sys.exit(main())
