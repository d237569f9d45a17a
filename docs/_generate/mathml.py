"""Formulas as MathML, written at build time: browsers draw it by themselves, so pages need no script and no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

SIZES = re.compile(r"\\[Bb]igg?[lmr]?(?![a-zA-Z])")  # `\Bigl` and the like, which the converter doesn't know before `\{`


def connect(app: Any) -> None:
    """Make this the renderer of `$...$` and `$$...$$`."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))


def inline(writer: Any, node: Any) -> None:
    """A formula inside a sentence."""
    writer.body.append(f'<span class="math">{convert(SIZES.sub("", node.astext()))}</span>')
    raise nodes.SkipNode


def block(writer: Any, node: Any) -> None:
    """A formula on a line of its own."""
    writer.body.append(f'<div class="math">{convert(SIZES.sub("", node.astext()), display="block")}</div>\n')
    raise nodes.SkipNode
