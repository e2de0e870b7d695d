"""Measure panels in a browser: clicks to a finished run, response times, cost of live updates.

    python -m benchmarks.panels [--front-end lab|notebook] [--times 20]

Clicks are timed in the page: from the click, through the kernel, to the frame in which the page has
changed.
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

# clicks a button and waits for the frame in which a part of the page has a different text
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
# clicks Stop and waits for the frames in which the page reports the stop, and then the result
STOP = """() => new Promise((done, fail) => {
  const shown = s => [...document.querySelectorAll(s)].filter(e => e.offsetParent)
  const said = words => shown('.widget-html, [role=status]').some(e => e.innerText.includes(words))
  const start = performance.now(), found = []
  shown('button.jupyter-button').find(b => b.innerText.trim() === 'Stop').click()
  const look = () => {
    const now = performance.now() - start
    if (!found.length && (said('stopped after epoch') || said('stopped:'))) found.push(now)
    if (said('press Resume to continue')) return done([...found, now])
    now > 20000 ? fail('it did not stop') : requestAnimationFrame(look)
  }
  look()
})"""
# one training in blocks of epochs with and without live updates: with, without, without, with …
COST = """
import json
from tlnb.session.background import BackgroundCall
note, held = BackgroundCall.note, tl.background.progressed._found
def noted(self, progress):
    note(self, progress)
    if progress.phase == "training":
        tl.background.progressed._found = held if progress.epoch // BLOCK % 4 in (0, 3) else []
BackgroundCall.note = noted
training = tl.background.start("the training", lambda: tl.train(epochs=(2 * PAIRS + 2) * BLOCK))
training.wait()
BackgroundCall.note, tl.background.progressed._found = note, held
at = training._times
took = [at[(i + 1) * BLOCK - 1] - at[i * BLOCK - 1] for i in range(2, 2 * PAIRS + 2)]
pairs = [(a, b) if i % 2 else (b, a) for i, (a, b) in enumerate(zip(took[::2], took[1::2]))]
print(json.dumps([pairs]))
"""


def whole_line(page: Page) -> dict[str, float]:
    """Work from the opened notebook to a finished run of strategy head."""
    start = time.monotonic()
    page.run()
    page.click("Load these images")
    page.sees("size verdict")
    page.tab("2 Model")
    page.click("Load")
    page.sees("Loaded: glyphnet")
    page.tab("4 Train")
    page.click("Train")
    page.sees("every layer compared with its start")
    return {"clicks": page.clicks, "seconds": time.monotonic() - start}


def spread(values: list[float]) -> dict[str, float]:
    """Milliseconds: median, 90th percentile, maximum."""
    values = sorted(values)
    return {
        "median": statistics.median(values),
        "90%": values[int(0.9 * (len(values) - 1))],
        "worst": values[-1],
    }


def share(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """The share that live updates add to training time.

    Args:
        pairs: seconds of blocks with live updates and without.

    Returns:
        The median of the pairs and half of its 95% interval (1.253 standard errors of a mean,
        without outliers at either end).
    """
    costs = sorted(live / still - 1 for live, still in pairs)
    middle = costs[len(costs) // 10 : len(costs) - len(costs) // 10]
    error = 1.253 * statistics.stdev(middle) / len(costs) ** 0.5
    return {
        "pairs": len(pairs),
        "block, s": statistics.median(still for _, still in pairs),
        "cost": statistics.median(costs),
        "give or take": 1.96 * error,
    }


def answers(page: Page, times: int, clicks: list[tuple[str, str]]) -> dict[str, float]:
    """Measure response times of clicks, given as pairs of a button's words and what changes."""
    milliseconds = []
    for i in range(times):
        milliseconds.append(page.page.evaluate(CLICK, list(clicks[i % len(clicks)])))
        page.page.wait_for_timeout(150)
    return spread(milliseconds)


def measured(page: Page, times: int) -> dict[str, Any]:
    """Measure all figures."""
    figures: dict[str, Any] = {"whole line": whole_line(page)}
    page.tab("3 Layers")
    stages = [
        ("layer4: frozen", "button"),
        ("layer4: trains", "button"),
        ("partial", "button"),
        ("head", "button"),
    ]
    figures["idle, ms"] = answers(page, times, stages)
    page.click("full")
    page.sees("everything, from the pretrained weights")
    page.tab("4 Train")
    page.field("epochs").fill("20000")
    page.click("Train")
    page.page.locator("svg[aria-label^='training loss']:visible").wait_for()
    figures["training, ms"] = answers(
        page,
        times,
        [("More options", ".jupyter-button, .widget-text"), ("Session as a cell", "textarea")],
    )
    stopped, tested = page.page.evaluate(STOP)
    figures["stop, ms"] = {"training has stopped": stopped, "tested, with its card": tested}
    page.run(1)
    page.page.locator(".jp-OutputArea-output pre", has_text="]]").first.wait_for(timeout=600_000)
    (pairs,) = json.loads(
        page.page.locator(".jp-OutputArea-output pre", has_text="]]").first.inner_text()
    )
    figures["live updates"] = share(pairs)
    figures["red"], figures["console"] = page.red(), page.problems
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--front-end", choices=["lab", "notebook"], default="lab")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument(
        "--block", type=int, default=20, help="epochs of a block with or without live updates"
    )
    parser.add_argument("--pairs", type=int, default=40, help="of such blocks")
    chosen = parser.parse_args()
    if reason := missing(chosen.front_end):
        raise SystemExit(f"nothing measured: {reason}")
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        (top / "work").mkdir()
        cost = COST.replace("BLOCK", str(chosen.block)).replace("PAIRS", str(chosen.pairs))
        write(top / "work" / "panels.ipynb", ["%load_ext tlnb\n%tl_panel", cost])
        with server(top / "work", top, chosen.front_end) as address, browser() as chromium:
            figures = measured(Page(chromium.new_page(), f"{address}/panels.ipynb"), chosen.times)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
