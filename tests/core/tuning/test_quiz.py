"""Ten questions about what to do, answered alike by card, `%tl`, `%tl_strategy`, advice and page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlnb.core.data.dataset import A_LOT_FROM, DECENT_FROM
from tlnb.core.data.splits import MIN_FOR_VAL
from tlnb.core.planning.size_rule import MEASURED, SHORT_BUDGET, size_rule
from tlnb.core.training.run import Forecast
from tlnb.core.tuning import advise as advising
from tlnb.core.tuning.trials import STRATEGIES
from tlnb.display.cards import HTML
from tlnb.session import Session

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "which-strategy.md").read_text("utf8")
HEAD = "start with head, the fewest changes"
PARTIAL = "start with head; then try %tl_strategy partial"
FULL = f"{PARTIAL}, then %tl_strategy full"
FAR = "a far source: start with head; then try %tl_strategy full, and "


def builtin(name: str, per_class: int) -> Callable[[Session, Path], object]:
    return lambda session, _: session.data(name, per_class=per_class)


def drawn(*counts: int) -> Callable[[Session, Path], object]:
    """Pictures of noise, so many labels in use of each class."""

    def load(session: Session, _: Path) -> object:
        labels = np.repeat(np.arange(len(counts)), [round(n * 1.25) for n in counts])
        images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4), dtype=np.uint8)
        return session.data(images, labels)

    return load


def ants_and_bees(session: Session, folder: Path) -> object:
    for part, count in (("train", 122), ("val", 2)):
        for name in ("ants", "bees"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), i).save(folder / part / name / f"{i}.png")
    return session.data(str(folder))


@dataclass(frozen=True)
class Case:
    number: int
    load: Callable[[Session, Path], object]
    words: str
    strategy: str  # where nothing can be measured
    model: str = "glyphnet"
    budget: str | None = None
    far: bool = False


CASES = [
    Case(1, builtin("digits", 1), HEAD, "head"),
    Case(2, builtin("digits", 2), HEAD, "head"),
    Case(3, builtin("symbols", 20), PARTIAL, "partial"),
    Case(
        4,
        builtin("digits", 50),
        "stay with head: a minute is too short to try more",
        "head",
        budget="1min",
    ),
    Case(5, builtin("digits", 100), PARTIAL, "partial", budget="60min"),
    Case(
        6,
        ants_and_bees,
        "stay with head: on a source's own images partial was no better where measured",
        "head",
        model="efficientnet_lite0",
    ),
    Case(7, drawn(1500, 1500), FULL, "full"),
    Case(
        8, drawn(20_000, 20_000), f"{FAR}%tl_train --scratch beside it as a check", "full", far=True
    ),
    Case(
        9,
        builtin("textures", 5),
        f"{FAR}fewer layers (%tl_remove), or another source (%tl_models)",
        "full",
        model="glyphnet-glyphs",
        far=True,
    ),
    Case(10, drawn(400, 30, 8), HEAD, "head"),
]


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for trials, and costs that no clock was asked for: the rule has to answer."""
    names = ("name", "fingerprint", "plan", "options", "per_epoch", "peak_bytes", "sample", "took")
    cost = Forecast(
        **dict.fromkeys(names),
        phases={"training": 2.0},
        flops_by_phase={},
        wh=0.0,
        money=0.0,
        currency="USD",
        bases={},
    )
    monkeypatch.setattr(advising, "_forecasts", lambda *_: dict.fromkeys(STRATEGIES, cost))
    monkeypatch.setattr(advising, "ADVICE_SECONDS", 0.0)
    monkeypatch.setattr(advising, "BUDGET_SHARE", 0.0)


def seen(value: object) -> str:
    return unescape(re.sub(r"<[^>]+>", "", HTML[type(value)](value)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.number))
def test_every_voice_gives_the_same_answer(
    case: Case, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = case.load(session, tmp_path)
    session.load(case.model)
    monkeypatch.setattr(advising, "_probed", lambda *_: ((), ()))
    monkeypatch.setattr(advising, "_differs", lambda _: ("far",) if case.far else ())
    advice = session.advise(budget=case.budget)
    assert advice.strategy == advice.rule == case.strategy
    assert f": {case.words})" in advice.reason and case.words in seen(advice)
    assert "not measured" in advice.sure
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {case.number} |"))
    assert f"| {case.words} |" in row
    if case.budget is None and not case.far:  # what only advice can know
        for voice in (seen(session), repr(session), seen(session.strategy())):
            assert case.words in voice
    if case.model == "glyphnet" and case.budget is None and not case.far:
        assert case.words in seen(data)  # before there is a network


def test_each_answer_names_a_lesson_and_a_heading_in_it():
    rows = re.findall(r"^\| \d+ \|.*$", PAGE, re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        lesson, heading = re.search(r"\(\.\./lessons/([\w.-]+)\), \*(.+)\* \|$", row).groups()
        cells = json.loads((ROOT / "lessons" / lesson).read_text("utf8"))["cells"]
        assert any(f"## {heading}" in "".join(c["source"]) for c in cells), (lesson, heading)


def test_a_measured_earlier_stage_makes_a_source_far(session: Session):
    session.data("textures", per_class=10)
    session.load("glyphnet-few")
    advice = session.advise()
    assert advice.far and advice.rule == "full" and "a far source" in seen(advice)
    session.load("glyphnet")
    assert not session.advise().far


def test_a_minute_is_kept_for_the_training_whatever_could_be_measured(small: Session):
    advice = small.advise(budget=SHORT_BUDGET)
    assert advice.strategy == "head" and "Nothing was tried" in advice.reason
    assert all(tried.accuracy is None for tried in advice.evidence)
    assert size_rule(500, budget=SHORT_BUDGET + 1).strategy == "partial"


# ── what the limits rest on ──


def lead(per_class: int, more: str, fewer: str) -> tuple[float, float]:
    """Mean lead over the data that were measured with so many labels, and its standard error."""
    leads = np.array([m.lead(more, fewer) for m in MEASURED if m.per_class == per_class])
    return leads[:, 0].mean(), float(np.sqrt((leads[:, 1] ** 2).sum()) / len(leads))


def test_partial_leads_clearly_from_five_labels_on_and_twenty_can_check_it():
    both = sorted(
        set.intersection(
            *({m.per_class for m in MEASURED if m.data == data} for data in ("digits", "symbols"))
        )
    )
    clear = [n for n in both if (found := lead(n, "partial", "head"))[0] > max(1, 2 * found[1])]
    assert both == [1, 5, 20, 100] and clear == [5, 20, 100]
    assert max(clear[0], MIN_FOR_VAL) == DECENT_FROM


def test_full_was_never_clearly_ahead_of_partial_up_to_a_lot():
    assert max(m.per_class for m in MEASURED) == A_LOT_FROM
    assert all(
        points <= 2 * error for m in MEASURED for points, error in [m.lead("full", "partial")]
    )


def test_the_evidence_is_that_of_the_benchmarks():
    text = (ROOT / "BENCHMARKS.md").read_text("utf8")
    for data in ("Digits", "Symbols"):
        section = text.split(f"\n## {data}\n")[1].split("\n## ")[0]
        rows = [m for m in MEASURED if m.data == data.lower()]
        for strategy in ("head", "partial", "full"):
            cells = " | ".join("{:.1f} ± {:.1f}".format(*getattr(m, strategy)) for m in rows)
            assert f"| {strategy} | {cells} |" in section
