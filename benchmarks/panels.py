"""Panels in a real browser: clicks and seconds to a finished run, how soon a click shows, what live updates cost.

    python -m benchmarks.panels [--front-end lab|notebook] [--times 20]

Clicks are timed in the page itself: from the click to the frame in which the page has changed, with the kernel in between.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.front_end import Page, browser, missing, server, write

# clicks a button and waits for the frame in which a part of the page reads differently
CLICK = """([words, watched]) => new Promise((done, fail) => {
  const all = s => [...document.querySelectorAll(s)].filter(e => e.offsetParent)
  const seen = s => all(s).map(e => e.innerText + (e.value ?? '')).join('|')
  const button = all('button.jupyter-button').find(b => b.innerText.includes(words))
  const before = seen(watched), start = performance.now()
  button.click()
  const look = () => seen(watched) !== before ? done(performance.now() - start)
    : performance.now() - start > 20000 ? fail('nothing changed') : requestAnimationFrame(look)
  look()
})"""
COST = """
import json
from tlnb.panels import panel_of
from IPython.display import display
def seconds(live):
    held = tl.turn.progressed._found
    tl.turn.progressed._found = held if live else []
    training = tl.turn.start("the training", lambda: tl.train(epochs=EPOCHS))
    training.wait()
    tl.turn.progressed._found = held
    return sum(training.value.seconds.values())
seconds(True)
print(json.dumps([(seconds(True), seconds(False)) for _ in range(ROUNDS)]))
"""


def whole_line(page: Page) -> dict[str, float]:
    """From the opened notebook to a finished run of strategy head."""
    start = time.monotonic()
    page.run()
    page.click("Take these images")
    page.sees("size verdict")
    page.tab("2 Model")
    page.click("Load")
    page.sees("Loaded: glyphnet")
    page.tab("4 Train")
    page.click("Train")
    page.sees("every layer beside its start")
    return {"clicks": page.clicks, "seconds": time.monotonic() - start}


def spread(found: list[float]) -> dict[str, float]:
    """Milliseconds: median, nine tenths, worst."""
    found = sorted(found)
    return {"median": statistics.median(found), "90%": found[int(0.9 * (len(found) - 1))], "worst": found[-1]}


def answers(page: Page, times: int, clicks: list[tuple[str, str]]) -> dict[str, float]:
    """How soon clicks show: pairs of a button's words and what changes in the page."""
    found = []
    for i in range(times):
        found.append(page.page.evaluate(CLICK, list(clicks[i % len(clicks)])))
        page.page.wait_for_timeout(150)
    return spread(found)


def measured(page: Page, times: int) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"whole line": whole_line(page)}
    page.tab("3 Layers")
    stages = [("layer4: frozen", "button"), ("layer4: trains", "button"), ("partial", "button"), ("head", "button")]
    found["idle, ms"] = answers(page, times, stages)
    page.click("full")
    page.sees("everything, from the pretrained weights")
    page.tab("4 Train")
    page.field("epochs").fill("20000")
    page.click("Train")
    page.page.locator("svg[aria-label^='training loss']:visible").wait_for()
    found["training, ms"] = answers(
        page, times, [("More options", ".jupyter-button, .widget-text"), ("Session as a cell", "textarea")]
    )
    found["stop, ms"] = page.page.evaluate(CLICK, ["Stop", "[role=status]"])
    start = time.monotonic()
    page.sees("Go on carries it further")
    found["stop, ms"] += 1000 * (time.monotonic() - start)
    page.run(1)
    page.page.locator(".jp-OutputArea-output pre", has_text="]]").first.wait_for(timeout=600_000)
    pairs = json.loads(page.page.locator(".jp-OutputArea-output pre", has_text="]]").first.inner_text())
    live, still = (statistics.median(column) for column in zip(*pairs, strict=True))
    found["live updates"] = {"seconds with": live, "seconds without": still, "cost": live / still - 1, "pairs": pairs}
    found["red"], found["console"] = page.red(), page.problems
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--front-end", choices=["lab", "notebook"], default="lab")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=120, help="of each training that live updates are measured on")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if reason := missing(chosen.front_end):
        raise SystemExit(f"nothing measured: {reason}")
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        (top / "work").mkdir()
        cost = COST.replace("EPOCHS", str(chosen.epochs)).replace("ROUNDS", str(chosen.rounds))
        write(top / "work" / "panels.ipynb", ["%load_ext tlnb\n%tl_panel", cost])
        with server(top / "work", top, chosen.front_end) as address, browser() as chromium:
            found = measured(Page(chromium.new_page(), f"{address}/panels.ipynb"), chosen.times)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
