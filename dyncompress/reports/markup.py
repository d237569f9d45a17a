"""Parts of HTML that pages and notebooks share: escaped text, tables, sections, a whole document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from dyncompress.reports.table import Table

LONG = 32  # characters above which a cell counts as a sentence
STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --ink: #1f2430; --dim: #5c6472; --rule: #dcdad3; --mark: #2f6f8f;
  --soft: #a8a293; --good: #2c7a4b; --bad: #a8392f; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181d; --ink: #e5e7ea; --dim: #99a1ad; --rule: #333942; --mark: #6fb3d1; --soft: #767c86; --good: #74c493;
    --bad: #e88a80; --warn: #e0b060; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 2rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; } .dim { color: var(--dim); } .kept { color: var(--good); } .broken { color: var(--bad); }
.vacuous { color: var(--warn); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1.1rem 2rem;
  margin: 1.5rem 0; }
.figures b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; } .figures span { color: var(--dim); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; overflow-wrap: normal; margin: .4rem 0; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--dim); font-weight: 600; white-space: nowrap; } td.long { min-width: 15rem; }
.right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.certificate { border: 1px solid var(--rule); border-left: 4px solid var(--mark); padding: .8rem 1rem; }
.legend span { margin-right: 1.25rem; white-space: nowrap; color: var(--dim); }
svg { display: block; font-size: 12px; } .legend svg { display: inline; vertical-align: -1px; }
svg.plot { width: 100%; max-width: 40rem; height: auto; }
svg .mark { fill: var(--mark); } svg .soft { fill: var(--soft); } svg text { fill: var(--ink); }
svg circle.mark, svg polyline.mark { stroke: var(--mark); } svg circle.soft, svg polyline.soft { stroke: var(--soft); }
svg .tick { fill: var(--dim); font-size: 11px; } svg .rule { stroke: var(--rule); }
svg .whisker { stroke: var(--mark); stroke-width: 1.5; }
.bars { display: grid; grid-template-columns: minmax(8rem, auto) minmax(6rem, 1fr) auto; gap: .25rem .8rem;
  align-items: center; max-width: 46rem; font-size: .85rem; }
.bars .value { color: var(--dim); font-variant-numeric: tabular-nums; }
.bars .track { height: .7rem; } .bars .track i { display: block; height: 100%; border-radius: 2px; background: var(--mark); }
.bars i.soft.soft { background: var(--soft); }
.points .track { position: relative; height: 1.2rem; margin: 0 .4rem; }
.points .track i { position: absolute; top: .35rem; width: .5rem; height: .5rem; margin-left: -.25rem; border-radius: 50%; }
.points u { position: absolute; top: 0; bottom: -.25rem; border-left: 1px solid var(--rule); }
.points s { position: absolute; top: .55rem; height: 2px; background: var(--mark); }
.points .axis { position: relative; height: 1.2rem; margin: 0 .4rem; }
.points .axis b { position: absolute; white-space: nowrap; transform: translateX(-50%); font-weight: 400;
  color: var(--dim); font-size: .75rem; }
@media (max-width: 40rem) {
  .bars { grid-template-columns: minmax(0, 1fr) auto; } .bars .name { grid-column: 1 / -1; margin-top: .35rem; }
}
ul { padding-left: 1.2rem; } li { margin: .15rem 0; } code { font-size: .9em; overflow-wrap: anywhere; }
"""


def text(words: str) -> str:
    """Text with HTML characters escaped, arrows for "->", and code between backticks in a code element.

    Example:
        >>> text("run `dyncompress pack` if a < b")
        'run <code>dyncompress pack</code> if a &lt; b'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words.replace(" -> ", " → ")))


def table(content: Table) -> str:
    """An HTML table; numeric columns are aligned to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        pairs = zip(content.header, row, strict=True)
        return "".join(f"<{tag}{_kind(name in content.numeric, cell)}>{text(cell)}</{tag}>" for name, cell in pairs)

    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in content.rows)
    return f"<table><thead><tr>{cells(content.header, 'th')}</tr></thead><tbody>{rows}</tbody></table>"


def _kind(numeric: bool, cell: str) -> str:
    """The CSS class of a cell: numbers are aligned to the right, and sentences get a minimum width."""
    return ' class="right"' if numeric else ' class="long"' if len(cell) > LONG else ""


def section(title: str, words: str, content: str) -> str:
    """A heading, a sentence that explains the content, and the content; empty if the content is."""
    if not content:
        return ""
    return f'<section><h2>{text(title)}</h2><p class="dim">{text(words)}</p><div class="scroll">{content}</div></section>'


def items(sentences: Sequence[str]) -> str:
    """An HTML list; empty without sentences."""
    return f"<ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}</ul>" if sentences else ""


def document(title: str, body: str) -> str:
    """A complete HTML page with the given body: no scripts, no fonts, nothing is fetched."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
