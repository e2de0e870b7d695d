"""Write the reference from the code's own help: a page for every magic, an index, and the cheat sheet.

    python docs/build.py            # docs/magics/*.md, docs/README.md
    python docs/build.py --sheet    # docs/cheat-sheet.png too; needs Chromium and Playwright

A test writes the pages anew and compares, so that they cannot drift from the code.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import sys
import textwrap
from html import escape
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tlnb.core.data.dataset import A_LOT_FROM, DECENT_FROM
from tlnb.magics import TLMagics
from tlnb.session import Session

HERE = Path(__file__).parent
GROUPS = {
    "Data and model": ["tl_data", "tl_models", "tl_load", "tl_layers", "tl_look"],
    "The plan": [
        "tl_strategy",
        "tl_freeze",
        "tl_unfreeze",
        "tl_add",
        "tl_remove",
        "tl_replace",
        "tl_undo",
        "tl_advise",
    ],
    "Training": ["tl_forecast", "tl_train", "tl_tune", "tl_stop", "tl_wait", "tl_resume"],
    "Judging": ["tl_compare", "tl_cost", "tl_errors", "tl_predict"],
    "Taking it away": ["tl_code", "tl_script", "tl_save"],
    "The session": ["tl", "tl_panel", "tl_check", "tl_reset"],
}
HAND_WRITTEN = ("README.md",)
OF = "sha256 of what it shows"  # by which a test knows the picture is of today's help


def magics() -> list[str]:
    """All there are, in the order of the groups."""
    return [name for names in GROUPS.values() for name in names]


def help_of(name: str) -> tuple[str, str, list[str]]:
    """One line, what else there is to say, and the examples."""
    own = [line.strip() for line in (getattr(TLMagics, name).parser.description or "").splitlines()]
    examples = [line.removeprefix("Example: ") for line in own if line.startswith("Example: ")]
    said = [line for line in own if line and not line.startswith("Example: ")]
    return said[0], " ".join(said[1:]), examples


def page(name: str) -> str:
    """One magic's page."""
    first, more, examples = help_of(name)
    parser = getattr(TLMagics, name).parser
    usage = " ".join(parser.format_usage().split()).removeprefix(":: ").replace("%%", "%")
    rows = [(_called(action), _text(action.help)) for action in parser._actions]
    parts = [
        f"# `%{name}`",
        first,
        more,
        _fence(*(examples or [f"%{name}"])),
        "## Options" if rows else "",
    ]
    parts += (
        [
            _fence(
                textwrap.fill(
                    usage,
                    110,
                    subsequent_indent="    ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
        ]
        if rows
        else []
    )
    parts += ["| | |\n|---|---|\n" + "\n".join(f"| `{a}` | {b} |" for a, b in rows)] if rows else []
    return "\n\n".join(p for p in [*parts, *_python(name)] if p) + "\n"


def _called(action: argparse.Action) -> str:
    if not action.option_strings:
        return (action.metavar if isinstance(action.metavar, str) else action.dest).replace(
            "|", "\\|"
        )
    takes = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return f"{action.option_strings[-1]}{takes}".replace("|", "\\|")


def _text(words: str | None) -> str:
    return (
        escape((words or "").replace("%%", "%"), quote=False)
        .replace("|", "\\|")
        .replace("*", "\\*")
    )


def _fence(*lines: str) -> str:
    return "\n".join(["```", *lines, "```"])


def _python(name: str) -> list[str]:
    """The same call in Python, with its docstring."""
    method = getattr(Session, name.removeprefix("tl_"), None)
    if method is None:
        return []
    signature = re.sub(r"\(self(: '\w+')?(, )?", "(", str(inspect.signature(method)))
    signature = (
        re.sub(r"tlnb\.[\w.]+\.(\w+)", r"\1", signature)
        .replace("torch.nn.modules.module.", "nn.")
        .replace("'", "")
    )
    text = inspect.getdoc(method) or ""
    shown = textwrap.fill(
        f"tl.{method.__name__}{signature}",
        110,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return ["## In Python", "```python\n" + shown + "\n```", "```text\n" + text + "\n```"]


def index() -> str:
    """All magics, a line each."""
    parts = [
        "# The magics",
        "Written by `python docs/build.py` from the code's own help; `%tl_data?` shows the same in a notebook.",
    ]
    for group, names in GROUPS.items():
        rows = "\n".join(f"| [`%{n}`](magics/{n}.md) | {_text(help_of(n)[0])} |" for n in names)
        parts += [f"## {group}", f"| | |\n|---|---|\n{rows}"]
    others = sorted(p.name for p in HERE.glob("*.md") if p.name not in HAND_WRITTEN)
    titles = [
        f"* [{(HERE / o).read_text('utf8').splitlines()[0].lstrip('# ')}]({o})" for o in others
    ]
    parts += [
        "## Also here",
        "\n".join([*titles, "* [A cheat sheet for the classroom](cheat-sheet.png)"]),
    ]
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> None:
    """All pages into a folder."""
    (folder / "magics").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(index(), "utf8")
    for name in magics():
        (folder / "magics" / f"{name}.md").write_text(page(name), "utf8")


# ── the cheat sheet ──

STYLE = """
body { font: 17px/1.38 'DejaVu Sans', sans-serif; color: #111; background: #fff; margin: 28px 34px; width: 1532px }
h1 { font-size: 30px; margin: 0 0 2px } .sub { color: #444; margin: 0 0 14px; font-size: 19px }
.columns { columns: 3; column-gap: 26px }
section { break-inside: avoid; border-top: 3px solid #0072B2; padding-top: 4px; margin: 0 0 14px }
h2 { font-size: 20px; margin: 2px 0 5px; color: #0072B2 }
p { margin: 0 0 6px }
code { font: 15.5px 'DejaVu Sans Mono', monospace; background: #f0f2f5; padding: 1px 4px; border-radius: 3px }
.rule td { padding: 2px 10px 2px 0; vertical-align: top } .foot { color: #444; font-size: 14px; margin-top: 6px }
"""
SEVEN = [
    ("%load_ext tlnb", "once a notebook"),
    ("%tl_data digits --per-class 2", "twenty images"),
    ("%tl_load glyphnet", "what someone already trained"),
    ("%tl_freeze", "all but a new output layer"),
    ("%tl_train", "seconds"),
    ("%tl_train --scratch", "the opponent"),
    ("%tl_compare", "what it saved"),
]
RULE = [
    ("little data", "new output layer, all else frozen", "%tl_strategy head"),
    (
        f"a decent amount, from {DECENT_FROM}",
        "then train the last stages too",
        "%tl_strategy partial",
    ),
    (f"a lot, from {A_LOT_FROM:,}", "then all, if it measures better", "%tl_strategy full"),
]


def sheet() -> str:
    """The cheat sheet as a page of HTML."""
    parts = [f"<section><h2>Seven lines</h2>{''.join(_line(a, b) for a, b in SEVEN)}</section>"]
    rule = "".join(
        f"<tr><td><b>{a}</b></td><td>{b}<br><code>{c}</code></td></tr>" for a, b, c in RULE
    )
    parts.append(
        f"<section><h2>How much to change</h2><table class='rule'>{rule}</table>"
        "<p>By labels in the smallest class; start with head. It is a convention: %tl_advise measures.</p></section>"
    )
    for group, names in GROUPS.items():
        lines = "".join(_line(_brief(n), help_of(n)[0].rstrip(".")) for n in names)
        parts.append(f"<section><h2>{group}</h2>{lines}</section>")
    return (
        f"<!doctype html><meta charset='utf8'><style>{STYLE}</style><h1>tlnb: transfer learning in a notebook</h1>"
        "<p class='sub'>Someone has already trained a network on something relevant. "
        "Reuse it, change little, measure what it saved.</p>"
        f"<div class='columns'>{''.join(parts)}</div>"
        "<p class='foot'>Help: %tl_train? · Tab completes · in Python: from tlnb import tl, then tl.train(…) · "
        "frozen: no gradient, no running statistics; every run proves what moved</p>"
    )


def _line(typed: str, words: str) -> str:
    return f"<p><code>{escape(typed)}</code> {escape(words)}</p>"


def _brief(name: str) -> str:
    examples = help_of(name)[2]
    return examples[0] if examples and len(examples[0]) < 46 else f"%{name}"


def draw(file: Path) -> None:
    """The cheat sheet as a picture, twice the pixels for printing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1600, "height": 1100}, device_scale_factor=2)
        tab.set_content(sheet())
        tab.screenshot(path=str(file), full_page=True)
        browser.close()
    marked = PngInfo()
    marked.add_text(OF, hashlib.sha256(sheet().encode()).hexdigest())
    Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
        file, optimize=True, pnginfo=marked
    )


if __name__ == "__main__":
    write(HERE)
    if "--sheet" in sys.argv:
        draw(HERE / "cheat-sheet.png")
