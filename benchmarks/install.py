"""The cost of an installation in addition to torch: packages that pip would add, and seconds of the imports.

Run: python benchmarks/install.py [--json FILE]        (asks the package index which versions it would install; installs nothing)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5
IMPORTS = {
    "dyncompress": "import dyncompress",
    "its verbs, torch already imported": "from dyncompress import compress, verify",
    "the verify command": "import dyncompress.cli, dyncompress.pipeline.verification",
}


def wanted(*requirements: str) -> set[str]:
    """The names of all packages that pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["-c", "constraints.txt", *requirements]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(report.stdout)["install"]
    return {re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower() for entry in found}


def seconds(statement: str, before: str) -> float:
    """The shortest time of `statement` in several new interpreters; `before` runs first and is not timed."""
    code = f"{before}\nimport time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(REPEATS)]
    return min(float(run.stdout) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    beside = sorted(wanted(".") - wanted("torch") - {"dyncompress"})
    times = {
        name: round(seconds(statement, "import torch" if "torch" in name else "pass"), 3) for name, statement in IMPORTS.items()
    }
    figures = {"packages_beside_torch": len(beside), "packages": beside, "import_seconds": times}
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures | {"date": time.strftime("%Y-%m-%d")}, indent=1) + "\n")


if __name__ == "__main__":
    main()
