"""What nbval compares of the lessons' outputs: every exact number and no measured one, whatever the machine."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

FOLDER = Path(__file__).parents[2]
PATTERNS = get_sanitize_patterns((FOLDER / "tests" / "nbval_sanitize.cfg").read_text("utf8"))
LESSONS = sorted((FOLDER / "lessons").glob("*.ipynb"))

# A measured number in running text, by kind, and others that may stand there on another machine.
KINDS: dict[str, list[str]] = {
    r"\[\d+\.\d%, \d+\.\d%\]": ["[0.0%, 7.3%]", "[91.4%, 100.0%]"],
    r"\d+\.\d–\d+\.\d(?=%?)": ["3.1–12.9", "96.0–100.0"],
    r"\d+(?:\.\d+)?%": ["0.1%", "58.3%", "100.0%", "259%"],
    r"[+-]\d+\.\d points": ["-0.1 points", "+31.7 points"],
    r"± \d+(?:\.\d+)?": ["± 0.0", "± 11.2"],
    r"\bloss \d+\.\d+": ["loss 0.01", "loss 13.25"],
    r"(?:under )?\b[\d,]+(?:\.\d+)? (?:s|min|h)\b": [
        "under 0.01 s",
        "0.39 s",
        "7.1 s",
        "1,204 s",
        "3 min",
    ],
    r"(?:at least )?\d+(?:\.\d+)?× sooner": ["1.2× sooner", "at least 340× sooner"],
    r"(?:at least )?\d+(?:\.\d+)? times less work": ["3.4 times less work", "about as much work"],
    r"(?:under )?\b\d+(?:\.\d+)? k?Wh\b": ["under 0.01 Wh", "0.35 Wh"],
    r"(?:under )?\b\d+\.\d+ usd(?! an hour)": ["under 0.01 usd", "0.1234 usd"],
    r"[\d,]+ (?:such )?uses": ["7 such uses", "1,305 such uses"],
    r"\b\d[\d.,]* [MGT]FLOP(?! an image| forward| \(measured)": [
        "3.41 GFLOP",
        "858 MFLOP",
        "1.73 TFLOP",
    ],
    r"\b[\d.]+ [kMG]B(?=,| in memory| in a file)": ["20 kB", "34.4 MB"],
}
KIND = re.compile("|".join(f"({kind})" for kind in KINDS))
ROW = re.compile(
    r"^.*  +(?:under )?(?:[\d.]+%|–|\d+\.\d\d)(?: \([\d.–]+\))?(?:  .*)?$", re.MULTILINE
)  # of a table as text: some have no unit
# Numbers that follow from the machine's price list and its number of threads, and words that follow from a figure
OF_THE_MACHINE = re.compile(
    r"\d+\.\d+ usd an hour|\d+ threads,|[\d.]+ W for each busy thread|(?:FLOPs saved|Someone else paid).*|"
    r"\d+ of \d+ test images of .*|% at \w+"
)


def sanitized(text: str) -> str:
    for pattern, instead in PATTERNS:
        text = re.sub(pattern, instead, text)
    return text


def outputs(path: Path) -> Iterator[tuple[str, str]]:
    """Every text that nbval compares, after the number of its cell and its kind."""
    code = [
        cell for cell in json.loads(path.read_text("utf8"))["cells"] if cell["cell_type"] == "code"
    ]
    for number, cell in enumerate(code, 1):
        for output in cell["outputs"]:
            found = {"stream": output["text"]} if "text" in output else output.get("data", {})
            for kind, text in found.items():
                if kind == "stream" or kind.startswith("text/"):
                    yield f"[{number}] {kind}", "".join(text)


def pieces(text: str, kind: str) -> Iterator[tuple[int, str, bool]]:
    """Where each stretch of visible text begins, the text, and whether a card marks it as measured."""
    if not kind.endswith("html"):
        yield 0, text, False
        return
    within: list[str] = []  # the measured element that we are in
    for found in re.finditer(r"<(/?)(\w+)([^>]*)>|[^<]+", text):
        closing, name, attributes = found[1], found[2], found[3]
        if name is None:
            yield found.start(), found[0], bool(within)
        elif closing and within and within[-1] == name:
            within.pop()
        elif (
            not closing
            and (within[-1:] == [name] or 'class="measured"' in attributes)
            and name not in ("img", "br")
        ):
            within.append(name)
        elif not closing and (alt := re.search(r'alt="([^"]*)"', attributes)):
            yield found.start(3) + alt.start(1), alt[1], 'class="measured"' in attributes


def numbers(text: str, kind: str) -> Iterator[tuple[int, int, bool]]:
    """Where each number of a text lies, and whether it is measured; those in between (a row of figures) are left out."""
    for start, piece, marked in pieces(text, kind):
        if marked:
            yield start, start + len(piece), True
            continue
        taken = [found.span() for found in ROW.finditer(piece)] if not kind.endswith("html") else []
        for found in KIND.finditer(piece):
            taken.append(found.span())
            if not (
                kind.endswith("html") and "FLOP" in found[0]
            ):  # a network's, unless a card marks it
                yield start + found.start(), start + found.end(), True
        taken += [found.span() for found in OF_THE_MACHINE.finditer(piece)]
        for found in re.finditer(r"\d+", piece):
            if not any(low <= found.start() < high for low, high in taken):
                yield start + found.start(), start + found.end(), False


def otherwise(figure: str, chance: random.Random) -> str:
    """Another figure of its kind, or other words for a marked one."""
    for kind, examples in KINDS.items():
        if re.fullmatch(kind, figure):
            return chance.choice(examples)
    return re.sub(r"\d", lambda _: chance.choice("0123456789"), figure)


@pytest.mark.parametrize("path", LESSONS, ids=[p.stem for p in LESSONS])
def test_another_machines_figures_are_not_compared(path: Path):
    chance = random.Random(0)
    for where, text in outputs(path):
        measured = sorted({span[:2] for span in numbers(text, where) if span[2]}, reverse=True)
        changed = text
        for start, end in measured:
            changed = changed[:start] + otherwise(text[start:end], chance) + changed[end:]
        assert sanitized(changed) == sanitized(text), where


@pytest.mark.parametrize("path", LESSONS, ids=[p.stem for p in LESSONS])
def test_every_exact_number_is_compared(path: Path):
    exact = 0
    for where, text in outputs(path):
        expected = sanitized(text)
        for start, end, measured in numbers(text, where):
            if not measured:
                exact += 1
                digit = str((int(text[end - 1]) + 1) % 10)
                changed = text[: end - 1] + digit + text[end:]
                assert sanitized(changed) != expected, (
                    f"{where}: {text[max(0, start - 40) : end + 40]!r}"
                )
    assert exact > 50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('<p class="measured">It reached 97% 3× sooner.</p><p>a</p>', "<p>a</p>"),
        ('<td class="measured"><b>3</b></td>', '<td class="measured">not reached</td>'),
        ('<table class="measured"><tr><td>1</td></tr></table>', '<table class="measured"></table>'),
        ("interval 96.7–98.8%", "interval 6.7–100.0%"),
        ("took 1,204 s", "took under 0.01 s"),
        ("at least 21 times less work to", "1.2 times more work to"),
    ],
)
def test_what_may_change_is_hidden_with_its_structure(one: str, other: str):
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trains 1,610 of 559,874 parameters", "trains 1,620 of 559,874 parameters"),
        ("17.0 MFLOP an image", "17.1 MFLOP an image"),
        ("<td>5.31 MFLOP</td>", "<td>5.32 MFLOP</td>"),
        ("100 epochs in 3.1 s", "101 epochs in 3.1 s"),
        ("frozen</td>", "trains</td>"),
        ('<td class="measured">1</td><td>2</td>', '<td class="measured">1</td><td>3</td>'),
        (
            "remove layer2 does not fit: layer3.conv1 cannot take (1, 24, 16, 16)",
            "remove layer2 does not fit",
        ),
    ],
)
def test_what_is_exact_is_compared(one: str, other: str):
    assert sanitized(one) != sanitized(other)
