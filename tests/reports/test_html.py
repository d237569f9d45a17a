"""The page is self-contained and well nested, has every layer and every sentence, and escapes all text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from dyncompress.pipeline.pareto import pareto
from dyncompress.reports import page
from dyncompress.types import OnnxFile, Profile
from tests import tiny

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Nesting(HTMLParser):
    """Collects text and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Nesting:
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []
    return nesting


def test_everything_is_on_the_page(file: OnnxFile, profile: Profile) -> None:
    text = " ".join(read(page(file, profile)).text)
    assert file.certificate is not None
    for sentence in (
        file.certificate.statement,
        *file.certificate.assumptions,
        *file.plan.why.values(),
        *file.plan.reasons.values(),
        *file.notes,
        *profile.notes,
        "only 9 eigenvalues",
        "2.5 ± 0.25",
        "4.50×",
        "9,000",
        "10.6 %",
        "99 % (8 of 800 wrong)",
        "98.8 % (10 of 800 wrong)",
        "Conv: 1 of 2 on integer kernels",
        *file.stages,
    ):
        assert sentence in text, sentence


def test_nothing_is_fetched_and_nothing_runs(file: OnnxFile, profile: Profile) -> None:
    text = page(file, profile)
    assert not {"script", "link", "img", "iframe"} & set(read(text).seen)
    assert not re.search(r"(src|href)=|url\(|@import", text)
    assert "<test>" not in text


def test_without_a_profile_or_certificate_the_page_says_so(file: OnnxFile) -> None:
    text = page(replace(file, certificate=None))
    assert "nothing is promised" in text
    assert "Measured: " not in text


def test_a_broken_promise_is_marked(file: OnnxFile) -> None:
    assert file.certificate is not None
    assert 'class="broken"' in page(replace(file, certificate=replace(file.certificate, kept=False)))
    assert 'class="broken"' not in page(file)


def test_a_vacuous_certificate_has_its_own_colour_and_remark(file: OnnxFile) -> None:
    assert file.certificate is not None
    vacuous = replace(file.certificate, lines=(replace(file.certificate.lines[0], upper=1.0),))
    for certificate in (vacuous, replace(vacuous, promise=None)):
        text = page(replace(file, certificate=certificate))
        assert '<p class="vacuous">' in text and 'class="kept"' not in text and ".vacuous { color" in text
        assert "PROMISES NOTHING" in " ".join(read(text).text) and "promise kept" not in text
    broken = page(replace(file, certificate=replace(vacuous, kept=False)))
    assert 'class="broken"' in broken and 'class="vacuous"' not in broken
    assert 'class="kept"' in page(file) and 'class="vacuous"' not in page(file)


def test_the_sample_is_given_in_examples_and_groups(file: OnnxFile) -> None:
    assert file.certificate is not None
    assert "800 held-out examples; examples 800" in page(file)
    assert "800 held-out examples in 6 groups;" in page(replace(file, certificate=replace(file.certificate, n=6)))


def test_a_notebook_shows_the_parts_of_the_report(file: OnnxFile, profile: Profile) -> None:
    shown = {
        "file": file._repr_html_(),
        "plan": file.plan._repr_html_(),
        "profile": profile._repr_html_(),
        "certificate": file.certificate._repr_html_() if file.certificate else "",
        "list": pareto(tiny.profile())._repr_html_(),
    }
    for name, text in shown.items():
        read(text)
        assert "<script" not in text and "<test>" not in text and "<body" not in text, name
    assert "4.50×" in shown["file"] and "nothing smaller" not in shown["file"]
    assert "many weights &amp; little distortion" in shown["plan"] and "8 bits to 4 bits" in shown["profile"]
    assert str(file.certificate) in shown["certificate"]
    assert shown["list"].startswith('<div class="scroll"><svg class="plot"') and "svg.plot .mark" in shown["list"]
