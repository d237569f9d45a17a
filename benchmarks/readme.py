"""Write every table of the README and of the site's page of benchmarks from `results/`: `python -m benchmarks.readme [--check]`.

A table stands between the markers `<!-- NAME -->` and `<!-- /NAME -->`. Tables of the frontier with all their rows, in
`benchmarks/README.md`, are written by `python -m benchmarks.frontier --render`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks import adam_tables, frontier_tables, gallery_tables, site_tables

ROOT = Path(__file__).resolve().parent.parent
Table = Callable[[], Iterable[str]]
PAGES: Mapping[Path, Mapping[str, Table]] = {
    ROOT / "README.md": {"headline": site_tables.headline},
    ROOT / "docs" / "theory" / "earning_its_place.md": {
        "adam predictors": adam_tables.predictors,
        "adam widths": lambda: adam_tables.allocations("bits"),
        "adam zeros": lambda: adam_tables.allocations("zeros"),
        "adam steps": adam_tables.steps,
    },
    ROOT / "docs" / "theory" / "trajectories.md": {"units": adam_tables.units},
    ROOT / "docs" / "benchmarks" / "index.md": {
        "frontier": lambda: frontier_tables.block(short=True),
        "gallery": gallery_tables.site,
        "gallery seconds": gallery_tables.seconds,
        "sentences": gallery_tables.sentences,
        "other models": gallery_tables.others,
        "pruned": gallery_tables.pruned,
        "runtimes": site_tables.runtimes,
        "certified": site_tables.certified,
        "heavy tail": site_tables.heavy_tail,
        "soundness": site_tables.soundness,
        "violations": site_tables.violations,
        "architectures": site_tables.architectures,
        "install": site_tables.install,
    },
}


def rendered(page: Path, tables: Mapping[str, Table]) -> str:
    """The page with every table written anew.

    Raises:
        ValueError: a marker is missing.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        head, _, rest = text.partition(begin)
        _, closing, tail = rest.partition(end)
        if not closing:
            raise ValueError(f"{page.name} lacks the markers of '{name}'; put {begin.strip()} and {end} where its table goes.")
        text = head + begin + "\n".join(table()).rstrip() + "\n" + end + tail
    return text


def stale() -> list[str]:
    """The pages whose tables differ from the results."""
    return [page.name for page, tables in PAGES.items() if rendered(page, tables) != page.read_text(encoding="utf-8")]


def main() -> int:
    """Rewrite the tables, or with `--check` only compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a table is stale")
    if parser.parse_args().check:
        found = stale()
        print(f"stale: {', '.join(found)}" if found else "all tables are up to date")
        return int(bool(found))
    for page, tables in PAGES.items():
        page.write_text(rendered(page, tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
