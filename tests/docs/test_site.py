"""The built site: every link inside it leads somewhere, and no page is wider than a phone.

Reads what `python -m sphinx -b html docs docs/_build/html` has built, as `.ci/run` does before the tests.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 390  # CSS pixels
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-proxy-server --hide-scrollbars --virtual-time-budget=120000 --dump-dom"
)
FRAME = """<!doctype html><title>none</title><body><iframe style="width:{width}px;height:844px;border:0"></iframe><script>
const pages = {pages}, found = {{}}, frame = document.querySelector("iframe");
function next() {{
  const page = pages.pop();
  if (!page) {{ document.title = JSON.stringify(found); return; }}
  frame.onload = () => {{
    const root = frame.contentDocument.documentElement;
    const over = [...frame.contentDocument.querySelectorAll("article *")].filter(e => {{
      if (e.getBoundingClientRect().right <= root.clientWidth + 1) return false;
      for (let up = e.parentElement; up; up = up.parentElement)
        if (["auto", "scroll", "hidden"].includes(frame.contentWindow.getComputedStyle(up).overflowX)) return false;
      return true;
    }});
    found[page] = [root.clientWidth, root.scrollWidth, over.slice(0, 3).map(e => e.tagName + ": " + e.textContent.slice(0, 60))];
    next();
  }};
  frame.src = page;
}}
next();
</script></body>"""

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").exists(), reason="build the site first: python -m sphinx -b html docs docs/_build/html"
)


class Links(HTMLParser):
    """The targets of links, images, scripts and styles of a page, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def pages() -> list[Path]:
    return sorted(page for page in SITE.rglob("*.html") if "_static" not in page.parts)


def test_every_link_inside_leads_somewhere() -> None:
    read = {page.resolve(): Links(page) for page in pages()}
    dead = []
    for page, links in read.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = unquote(parts.fragment)
            if not file.is_file() or (place and file in read and place not in read[file].places):
                dead.append(f"{page.relative_to(SITE.resolve())} -> {target}")
    assert len(read) > 40 and dead == []


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def beyond_the_edge(folder: Path, names: list[str], profile: Path) -> dict[str, list]:
    """Page -> its width, that of its content, and elements beyond the edge; pages that are no wider than a phone are left out."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=PHONE, pages=json.dumps(names)), encoding="utf-8")
    try:
        with served(folder) as address:
            command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}", f"{address}/{frame.name}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    finally:
        frame.unlink()
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None and title[1] != "none", done.stderr[-2000:]
    found = json.loads(html.unescape(title[1]))
    assert sorted(found) == sorted(names)
    return {page: measured for page, measured in found.items() if measured[1] > PHONE or measured[2]}


IN_A_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH, e.g. apt-get install chromium")


@IN_A_BROWSER
def test_no_page_is_wider_than_a_phone(tmp_path: Path) -> None:
    assert beyond_the_edge(SITE, [page.relative_to(SITE).as_posix() for page in pages()], tmp_path / "profile") == {}


@IN_A_BROWSER
def test_a_page_that_is_wider_is_noticed(tmp_path: Path) -> None:
    wide = '<!doctype html><body style="margin:0"><article><p style="width:500px">x</p></article></body>'
    (tmp_path / "wide.html").write_text(wide)
    boxed = '<!doctype html><body><article><div style="overflow-x:auto"><p style="width:500px">x</p></div></article></body>'
    (tmp_path / "boxed.html").write_text(boxed)
    found = beyond_the_edge(tmp_path, ["wide.html", "boxed.html"], tmp_path / "profile")
    assert found == {"wide.html": [PHONE, 500, ["P: x"]]}
