"""The pages in a browser: nothing overflows at the widths of a phone, a tablet and a desktop.

Runs where Chromium is on the PATH. A page that frames the report at each width writes what it measured into its own title.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dyncompress.pipeline.pareto import pareto
from dyncompress.reports import page
from dyncompress.reports.pareto import pareto_page
from dyncompress.types import Candidate, OnnxFile, Profile, Speed
from tests import tiny

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (360, 768, 1280)
LONG = "encoder.layer.11.attention.self.a_rather_long_name_of_a_projection_without_any_break"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=20000 --dump-dom"
)
FRAMES = """<!doctype html><title>none</title><body>{frames}<script>
window.onload = () => {{
  const sizes = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument.documentElement, wide = page.clientWidth;
    const over = [...frame.contentDocument.querySelectorAll("body *")].filter(
      e => !e.closest(".scroll") && e.getBoundingClientRect().right > wide + 1);
    return [wide, page.scrollWidth, over.map(e => e.tagName + "." + e.getAttribute("class"))];
  }});
  document.title = JSON.stringify(sizes);
}};
</script></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH, e.g. apt-get install chromium")


def overflow(text: str, folder: Path) -> list[tuple[int, int, list[str]]]:
    """For each width: the width of the page, that of its content, and the elements beyond the edge."""
    frames = "".join(f'<iframe style="width:{w}px;height:800px;border:0" srcdoc="{html.escape(text)}"></iframe>' for w in WIDTHS)
    (folder / "frames.html").write_text(FRAMES.format(frames=frames), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", f"file://{folder / 'frames.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    return json.loads(html.unescape(title.group(1)))


def assert_nothing_overflows(text: str, folder: Path) -> None:
    sizes = overflow(text, folder)
    assert [width for width, _, _ in sizes] == list(WIDTHS)
    for width, content, beyond in sizes:
        assert content <= width, f"at {width} px the page is {content} px wide"
        assert not beyond, f"at {width} px these lie beyond the edge: {beyond}"


def test_the_report_fits(file: OnnxFile, profile: Profile, tmp_path: Path) -> None:
    long = {name if name != "stem" else LONG: estimate for name, estimate in profile.estimates["hill"].items()}
    wide = replace(
        file,
        errors={LONG: (0.1, 0.2), "stem": (0.0, 1e-9)},
        plan=replace(file.plan, reasons={LONG: "the exporter computes with it " * 10}, notes=(LONG,)),
        notes=(f"output '{LONG * 3}' differs; run `dyncompress bench` on it",),
        speed=Speed(0.02, 0.01, 2.0, 40, processor="Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz with a long name"),
        candidates=(Candidate(3_000, 0.001, 0.002), Candidate(2_000, 0.01, 0.02, chosen=True)),
    )
    assert_nothing_overflows(page(wide, replace(profile, estimates={"hill": long, "a_measure_of_a_long_name": long})), tmp_path)


def test_the_pareto_page_fits(tmp_path: Path) -> None:
    assert_nothing_overflows(pareto_page(pareto(tiny.profile()), "Pareto list of edge-int8"), tmp_path)


def test_a_page_that_overflows_is_noticed(tmp_path: Path) -> None:
    wide = '<!doctype html><body style="margin:0"><div class="wide" style="width:500px">x</div></body>'
    sizes = overflow(wide, tmp_path)
    assert sizes[0] == [360, 500, ["DIV.wide"]] and sizes[1] == [768, 768, []]
