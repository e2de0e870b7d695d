"""The command line of tlnb.

`tlnb demo` runs lesson 1 without a browser, `tlnb lessons` opens the course, `tlnb train` runs a
job file, and `tlnb tune` searches hyperparameters for one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from filecmp import cmp
from itertools import count
from pathlib import Path
from typing import Any

from tlnb.core.runtime import distributed
from tlnb.core.runtime.errors import TLError, UsageError

CARD = "card.html"
LESSON = "01-twenty-images.ipynb"
SHIPPED = ("*.ipynb", "*.md", "records/*.json")


def lessons_folder() -> Path:
    """The folder of the lessons: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parent
    for folder in (package / "lessons", package.parent / "lessons"):
        if (folder / LESSON).is_file():
            return folder
    raise UsageError("this installation has no lessons: install tlnb again")


def demo(out: Path) -> None:
    """Execute lesson 1, print its comparison, and save the notebook and an HTML page."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter
    from tqdm import tqdm

    book = nbformat.read(lessons_folder() / LESSON, as_version=4)
    out.mkdir(parents=True, exist_ok=True)
    code = [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]
    client = NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(out)}}
    )
    with client.setup_kernel(), tqdm(total=len(code), desc="lesson 1", unit="cell") as bar:
        for i in code:
            first = book.cells[i].source.splitlines()[0]
            bar.set_postfix_str(first[:40])
            try:
                client.execute_cell(book.cells[i], i)
            except CellExecutionError as error:
                raise UsageError(
                    f"lesson 1 stopped at {first!r}: {str(error.evalue)[:200]}"
                ) from None
            bar.update()
    page, _ = HTMLExporter().from_notebook_node(book)
    notebook, html = out / LESSON, out / LESSON.replace(".ipynb", ".html")
    nbformat.write(book, notebook)
    html.write_text(page, "utf8")
    print(_comparison(book))
    print(f"\nThe executed lesson: {notebook}\nAs an HTML page:     {html}")
    print("Next: open the lessons with `tlnb lessons`, or type `%load_ext tlnb` in any notebook.")


def _comparison(book: Any) -> str:
    """The last comparison in the notebook, as text."""
    texts = [
        output.data["text/plain"]
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/plain" in output.get("data", {})
    ]
    return next(
        (str(text) for text in reversed(texts) if "test accuracy" in text),
        "(the lesson shows no comparison)",
    )


def lessons(folder: Path, browse: bool) -> None:
    """Copy the lessons to a writable folder and open JupyterLab there.

    A learner's copy is never overwritten.
    """
    copied = 0
    for file in _shipped():
        own = folder / file
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lessons_folder() / file, own)
            copied += 1
    print(f"{copied} files copied to {folder.resolve()}; existing files were left unchanged.")
    if browse:
        root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        subprocess.run(
            [sys.executable, "-m", "jupyterlab", *root, f"--ServerApp.root_dir={folder.resolve()}"],
            check=False,
        )


def reset_lessons(folder: Path, sure: bool) -> None:
    """List the copies that differ from the installed course and, if `sure`, restore them.

    An edited copy is kept under another name.

    Raises:
        UsageError: the folder has no copy of the course.
    """
    if not any((folder / file).exists() for file in _shipped()):
        raise UsageError(
            f"no lessons in {folder.resolve()}: tlnb lessons {folder} copies them there"
        )
    edited = [
        f
        for f in _shipped()
        if (folder / f).exists() and not cmp(folder / f, lessons_folder() / f, shallow=False)
    ]
    if not edited:
        print(f"Nothing to reset: the lessons in {folder.resolve()} are unchanged.")
        return
    for file in edited:
        kept = _free(folder / file)
        action = "renamed" if sure else "would be renamed"
        print(f"{folder / file}: {action} to {kept.name} and replaced by a fresh copy")
        if sure:
            (folder / file).rename(kept)
            shutil.copy(lessons_folder() / file, folder / file)
    if not sure:
        print(f"Nothing was changed. To reset them: tlnb lessons {folder} --reset --yes")


def _shipped() -> list[Path]:
    """The course's files as relative paths, without files that running the lessons created."""
    top = lessons_folder()
    return [p.relative_to(top) for pattern in SHIPPED for p in sorted(top.glob(pattern))]


def _free(file: Path) -> Path:
    """An unused name for a copy of a file: `01-twenty-images.mine.ipynb`, `….mine-2.ipynb`."""
    names = (file.with_suffix(f".mine{f'-{k}' if k > 1 else ''}{file.suffix}") for k in count(1))
    return next(name for name in names if not name.exists())


def train(job: Path, out: Path, trust: bool) -> None:
    """Run a job file, alone or as one of torchrun's processes.

    Writes record, network and card to the folder `out`.
    """
    from tlnb.display.html import page
    from tlnb.display.live import Silent, Terminal
    from tlnb.display.run_cards import run_card
    from tlnb.session import Session
    from tlnb.session.job_file import write_whole
    from tlnb.session.job_runner import NETWORK, RECORD, carry_out

    group = distributed.join()
    session, show = Session(), Terminal() if group.is_main else Silent()
    session.report = show
    try:
        run = carry_out(session, job, out, trust)
    finally:
        show.close()
    if group.is_main:
        write_whole(out / CARD, page(f"Run {run.name}", run_card(run)))
        print(
            f"{run!r}\nThe record: {out / RECORD}\nThe network: {out / NETWORK}\nThe card: {out / CARD}"
        )
        print(f"In a notebook: %tl_resume {out}")


def tune(job: Path, storage: str, trials: int, best: Path | None, trust: bool) -> None:
    """Add trials to a job's study, which several processes may do at the same time."""
    from tlnb.display.live import Terminal
    from tlnb.session import Session
    from tlnb.session.job_runner import search

    session, show = Session(), Terminal()
    session.report = show
    try:
        tuning = search(session, job, storage, trials, best, trust)
    finally:
        show.close()
    print(repr(tuning))
    if tuning.best is not None:
        values = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in tuning.best.values.items()
        )
        print(f"The best trial, {tuning.best.number}: {values}")
        if best is not None:
            print(f"To train with its values: python -m tlnb train {best} --out DIR")


def _add_course(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = commands.add_parser("demo", help="run lesson 1 here, without a browser")
    show.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the notebook and the page"
    )
    course = commands.add_parser("lessons", help="copy the lessons and open them in JupyterLab")
    course.add_argument("folder", type=Path, nargs="?", default=Path("tlnb-lessons"))
    course.add_argument("--no-browser", action="store_true", help="only copy the lessons")
    course.add_argument(
        "--reset",
        action="store_true",
        help="list the edited copies that would be restored",
    )
    course.add_argument(
        "--yes",
        action="store_true",
        help="with --reset: restore them; edited copies are kept under another name",
    )


def _add_jobs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    work = commands.add_parser("train", help="run a job file written by %%tl_save --job")
    work.add_argument("job", type=Path)
    work.add_argument(
        "--out",
        type=Path,
        default=Path("tlnb-run"),
        help="folder for the record, the network and the card",
    )
    seek = commands.add_parser(
        "tune", help="search hyperparameters for a job file; processes may share one storage"
    )
    seek.add_argument("job", type=Path)
    seek.add_argument(
        "--storage", required=True, help="a file for Optuna's journal, or a database's URL"
    )
    seek.add_argument("--trials", type=int, default=20, help="number of trials to add")
    seek.add_argument(
        "--best", type=Path, metavar="FILE", help="write a job with the best values to this file"
    )
    for command in (work, seek):
        command.add_argument(
            "--trust",
            action="store_true",
            help="run the job's code even if it is more than nn.* constructors",
        )


def _carry_out(chosen: argparse.Namespace) -> None:
    if chosen.command == "demo":
        demo(chosen.out)
    elif chosen.command == "train":
        train(chosen.job, chosen.out, chosen.trust)
    elif chosen.command == "tune":
        tune(chosen.job, chosen.storage, chosen.trials, chosen.best, chosen.trust)
    elif chosen.reset:
        reset_lessons(chosen.folder, chosen.yes)
    else:
        lessons(chosen.folder, not chosen.no_browser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `tlnb`."""
    parser = argparse.ArgumentParser(prog="tlnb", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_course(commands)
    _add_jobs(commands)
    chosen = parser.parse_args(arguments)
    try:
        _carry_out(chosen)
    except TLError as error:
        distributed.tell(f"tlnb: {error}")
        return 1
    except RuntimeError as error:
        if not distributed.lost(error):
            raise
        distributed.tell(
            "tlnb: another process ended; the same command resumes from the last checkpoint"
        )
        return 1
    except KeyboardInterrupt:
        distributed.tell("tlnb: interrupted; the same command resumes from the last checkpoint")
        return 130
    finally:
        distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
