"""Exported lessons and new cards on a page of 800 pixels: contrast, alternative text, nothing cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from benchmarks.front_end import HARMLESS_MESSAGES, browser, missing
from tlnb.display.cards import HTML
from tlnb.display.html import page
from tlnb.session import Session

LESSONS = sorted((Path(__file__).parents[2] / "lessons").glob("*.ipynb"))
LEAST_CONTRAST = 4.5  # WCAG 2.1, AA

# What is wrong on a page. Contrast after WCAG 2.1: relative luminances of a text's colour, with its
# opacity, and of the ground under it.
FAULTS = r"""() => {
  const numbers = s => { const n = s.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
  const up = e => { const all = []; for (; e; e = e.parentElement) all.push(getComputedStyle(e)); return all };
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.05 + c.map(linear).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = e => {
    const styles = up(e), ink = numbers(styles[0].color);
    const ground = styles.map(s => numbers(s.backgroundColor)).reduceRight((g, c) => over(c, g), [255, 255, 255]);
    ink[3] *= styles.reduce((all, s) => all * s.opacity, 1);
    const [a, b] = [light(over(ink, ground)), light(ground)];
    return Math.max(a, b) / Math.min(a, b);
  };
  const written = e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
  const seen = e => e.checkVisibility() && e.closest('details:not([open])') === null;
  const words = e => e.textContent.trim().slice(0, 40);
  const inside = what => [...document.querySelectorAll(`.tlnb ${what}`)];
  return {
    'no alternative text': [...document.querySelectorAll('img')].filter(e => !e.alt).length,
    'wider than the page': document.documentElement.scrollWidth > innerWidth,
    'cut': inside('div, p, table').filter(e => seen(e) && e.scrollWidth > e.clientWidth + 1).map(words),
    'faint': inside('*').filter(e => written(e) && contrast(e) < LEAST).map(words),
  };
}""".replace("LEAST", str(LEAST_CONTRAST))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if reason := missing("lab"):
        pytest.skip(reason)
    with browser(800, 1200) as found:
        yield found


def faults(chromium: Any, file: Path, html: str) -> dict[str, object]:
    """What is wrong on a page, the browser's own errors included."""
    file.write_text(html, "utf8")
    tab, errors = chromium.new_page(), list[str]()
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(file.as_uri())
    found = {kind: value for kind, value in tab.evaluate(FAULTS).items() if value}
    tab.close()
    own = [text for text in errors if not text.startswith(HARMLESS_MESSAGES)]
    return {**found, "errors": own} if own else found


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> str:
    """An exported page."""
    from nbconvert import HTMLExporter

    book = nbformat.read(request.param, as_version=4)
    exported: str = HTMLExporter(mathjax_url="", require_js_url="").from_notebook_node(book)[0]
    return exported


def test_a_lessons_page_is_whole_described_and_silent(chromium: Any, lesson: str, tmp_path: Path):
    found = faults(chromium, tmp_path / "page.html", lesson)
    assert {kind: found[kind] for kind in found if kind not in ("cut", "faint")} == {}


def test_a_lessons_cards_can_be_read(chromium: Any, lesson: str, tmp_path: Path):
    assert faults(chromium, tmp_path / "page.html", lesson) == {}


def test_new_cards_can_be_read(chromium: Any, compared: Session, tmp_path: Path):
    found = compared.check("1.1")
    values = [
        compared,
        compared.dataset,
        compared.model,
        compared.plan,
        compared.strategy(),
        compared.layers(),
        compared.models(),
        *compared.runs,
        compared.compare(),
        compared.cost(),
        compared.errors(),
        compared.forecast(epochs=2),
        compared.tune(trials=2, epochs=1),
        found,
        compared.check(),
        compared.advise(budget="1min"),
    ]
    cards = "".join(HTML[type(value)](value) for value in values)
    column = f'<div style="width:658px">{cards}</div>'  # an output's width on a page of 800
    assert faults(chromium, tmp_path / "cards.html", page("cards", column)) == {}
