"""The frontier: recipes of this library beside other tools on the pretrained CIFAR ResNets.

    DYNCOMPRESS_DATA=... python -m benchmarks.frontier [--rows 'edge-*' NNCF ...] [--nets resnet20 ...] [--seeds 0 1 2]
    DYNCOMPRESS_DATA=... python -m benchmarks.frontier --timings     # time all stored files, interleaved, in one run
    DYNCOMPRESS_DATA=... python -m benchmarks.frontier --sizes       # measure all stored files again, after the container changed
    python -m benchmarks.frontier --render [--check]                 # write tables and plots from the JSON files

Rows are compared by accuracy, bytes, MACs, milliseconds and seconds. Each finished (row, network, seed) is written to
`results/frontier_NET.json` immediately; an entry that exists and was made from the same recipe is skipped. Rows calibrate on
1 024 training images without labels, with three seeds, and are evaluated on all 10 000 test images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import frontier_plots, frontier_tables
from benchmarks.frontier_data import KEEP, SEEDS, Case, NotHereError
from benchmarks.frontier_results import RESULTS, key_of, put, read, write
from benchmarks.frontier_rows import ROWS, Row
from benchmarks.frontier_run import entry, fingerprint, original, remeasured, sources, timed
from dyncompress.errors import DyncompressError

NETS = ("resnet20", "resnet44")


def chosen_rows(patterns: Sequence[str]) -> list[Row]:
    """Rows by name or glob, in the order of the tables; all rows if there are no patterns."""
    for pattern in patterns:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            sys.exit(f"no row is called '{pattern}'; rows: {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not patterns or any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def is_done(row: Row, net: str, seed: int, folder: Path = RESULTS) -> bool:
    """Whether the stored entry was made from this version of the recipe, or from these settings of the peer."""
    found = read(net, folder)["rows"].get(key_of(row.name, seed))
    return found is not None and found["fingerprint"] == fingerprint(row, net)


def run(rows: Sequence[Row], net: str, seed: int, keep: Path, again: bool = False, folder: Path = RESULTS) -> None:
    """Run the missing rows of one network and one seed, and with `again` the existing ones too."""
    for row in (row for row in rows if seed in row.seeds):
        try:
            if not again and is_done(row, net, seed, folder):
                continue
            found = entry(row, Case(net, seed, keep))
        except (NotHereError, DyncompressError) as error:
            print(f"{net} seed {seed} {row.name}: passed over, {error}", flush=True)
            continue
        put(net, key_of(row.name, seed), found, folder)
        print(
            f"{net} seed {seed} {row.name}: drop {found['drop']:+.2f} [{found['drop_low']:+.2f}, {found['drop_high']:+.2f}], "
            f"file {found['file_ratio']:.2f}x smaller, container {found['container_ratio']:.2f}x, "
            f"its payload {found['coded_payload_ratio']:.2f}x, "
            f"MACs {found['macs_ratio']:.2f}x fewer, {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s of processor)",
            flush=True,
        )


def listed(rows: Sequence[Row], nets: Sequence[str], seeds: Sequence[int]) -> None:
    """Print which entries are done, which were made from another recipe, and which by other code."""
    for net in nets:
        stored = read(net)["rows"]
        for row in rows:
            for seed in (seed for seed in row.seeds if seed in seeds):
                found, state = stored.get(key_of(row.name, seed)), "missing"
                if found is not None:
                    same_code = found.get("sources", sources()) == sources()
                    try:
                        state = ("done" if same_code else "done by other code") if is_done(row, net, seed) else "another recipe"
                    except NotHereError:
                        state = "the recipe no longer exists"
                print(f"{net} seed {seed} {row.name}: {state}")


def main() -> int:
    """Run, time, render or list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[], help="names or globs (default: all)")
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--keep", type=Path, default=KEEP, help="folder of the files that are made; git ignores it")
    parser.add_argument("--again", action="store_true", help="make existing rows again")
    parser.add_argument("--timings", action="store_true", help="time the stored files")
    parser.add_argument("--sizes", action="store_true", help="measure the bytes of the stored files again")
    parser.add_argument("--render", action="store_true", help="write tables and plots")
    parser.add_argument("--check", action="store_true", help="with --render: only check that the tables are up to date")
    parser.add_argument("--list", action="store_true", help="list the state of every entry")
    args = parser.parse_args()
    rows = chosen_rows(args.rows)
    if args.list:
        listed(rows, args.nets, args.seeds)
    elif args.render:
        if args.check:
            return int(not frontier_tables.up_to_date())
        frontier_tables.write_all()
        frontier_plots.write_all()
    elif args.sizes:
        for net in args.nets:
            write({**read(net), "float": original(net)})
            for key in remeasured(net, args.keep):
                print(f"{net} {key}: the stored file is not the one that was evaluated; run the row again", flush=True)
    elif args.timings:
        for net in args.nets:
            for name in timed(net, rows, args.seeds, args.keep)["missing"]:
                print(f"{net} {name}: the stored file is not the one that was evaluated; run the row again", flush=True)
    else:
        for net in args.nets:
            write({**read(net), "float": original(net)})
        for seed in args.seeds:
            for net in args.nets:
                run(rows, net, seed, args.keep, args.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
