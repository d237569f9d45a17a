"""Runs the scripts in `examples/` and keeps what they print in `docs/examples/`.

python tools/run_examples.py                 # all of them; commit the changed outputs
python tools/run_examples.py 01_quickstart   # one of them
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("[0-9]*.py"))
OUTPUTS = ROOT / "docs" / "examples"


def printed_by(script: Path, environment: dict[str, str] | None = None) -> str:
    """What a script prints on standard output, run in a process of its own.

    Args:
        script: its path.
        environment: of the process; None: this one's.

    Raises:
        RuntimeError: the script failed; the message ends with what it wrote on standard error.
    """
    environment = dict(os.environ if environment is None else environment)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    environment["PYTHONIOENCODING"] = "utf-8"
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{script.name} ended with exit code {done.returncode}:\n{done.stderr}")
    return done.stdout


def main(words: Sequence[str] | None = None) -> int:
    """Write the output of each named script, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a script's name without `.py`; none: all scripts")
    names = parser.parse_args(words).names
    unknown = sorted(set(names) - {script.stem for script in SCRIPTS})
    if unknown:
        parser.error(f"no such example: {', '.join(unknown)}; there are {', '.join(script.stem for script in SCRIPTS)}.")
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS:
        if not names or script.stem in names:
            (OUTPUTS / f"{script.stem}.txt").write_text(printed_by(script), encoding="utf-8")
            print(f"wrote docs/examples/{script.stem}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
