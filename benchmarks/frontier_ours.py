"""A recipe of this library as a row of the frontier: one call of `compress`, as a user makes it, timed by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dyncompress as dc
from benchmarks.frontier_data import CALIBRATION, Case, Made, NotHereError, sha256, test_images
from benchmarks.judging import TARGET
from dyncompress.recipe.bundled_files import recipe_files
from dyncompress.types.progress import NoStep


@dataclass(frozen=True)
class Stopwatch:
    """A `Progress` that adds up the seconds of each phase. The time of a nested phase does not count for the outer one.

    Attributes:
        seconds: phase -> seconds so far.
        inner: for each open phase, the seconds of its nested phases.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    inner: list[float] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[NoStep]:
        """Time one phase."""
        start = time.perf_counter()
        self.inner.append(0.0)
        try:
            yield NoStep()
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self.inner.pop()
            if self.inner:
                self.inner[-1] += elapsed


@dataclass(frozen=True)
class Ours:
    """A shipped recipe, or one in a TOML file.

    Attributes:
        recipe: name or path of the recipe.
        overrides: dotted key -> value.
        by_net: network -> further overrides, such as its budget.
        changes: field of the `Recipe` value -> new value, for fields that no dotted key sets.
        certified: whether the file is certified on the test images at the end; the bytes of the certificate then count.
        images: number of calibration images.
    """

    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    by_net: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    certified: bool = False
    images: int = CALIBRATION

    def for_network(self, net: str) -> dc.Recipe:
        """The recipe for one network.

        Raises:
            NotHereError: no such recipe ships.
        """
        self.path()
        return replace(dc.load_recipe(self.recipe, {**self.overrides, **self.by_net.get(net, {})}), **self.changes)

    def path(self) -> Path:
        """The recipe's file.

        Raises:
            NotHereError: no such recipe ships.
        """
        found = recipe_files().get(self.recipe, Path(self.recipe))
        if not found.is_file():
            raise NotHereError(f"recipe '{self.recipe}' isn't shipped")
        return found

    def fingerprint(self, net: str) -> str:
        """Digest of the recipe's text and of the changes to it; a stored row with another digest is computed again."""
        lines = self.path().read_text(encoding="utf-8").splitlines()
        rules = "\n".join(line for line in lines if not line.startswith("#"))
        changed = {**self.overrides, **self.by_net.get(net, {}), **self.changes}
        more = "" if self.images == CALIBRATION else f"\n{self.images}"
        return sha256(f"{rules}\n{sorted(changed.items())!r}\n{self.certified}{more}".encode())[:12]

    def __call__(self, case: Case) -> Made:
        """Compress, and certify if the row asks for it."""
        recipe, model, watch = self.for_network(case.net), case.module(), Stopwatch()
        images = case.drawn(self.images)
        wall, cpu = time.perf_counter(), time.process_time()
        file = dc.compress(model, recipe, target=TARGET, calibration=images, progress=watch)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if self.certified:
            with watch.phase("certify (not in the sum)"):
                file = dc.certify(file, reference=model, held_out=test_images())
        more = {"stages": dict(file.stages), "fused": {k: list(v) for k, v in file.fused.items()}, "notes": list(file.notes)}
        return Made(
            content=file.content,
            macs=file.macs[1],
            seconds=wall,
            cpu_seconds=cpu,
            phases=watch.seconds,
            more=more,
        )
