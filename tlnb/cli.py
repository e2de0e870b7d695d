"""The command line of tlnb.

`tlnb demo` runs lesson 1 without a browser, `tlnb lessons` opens the course, `tlnb grade` makes a
table of learners' hand-ins, `tlnb train` runs a job file, and `tlnb tune` searches hyperparameters
for one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlnb.core.runtime import distributed
from tlnb.core.runtime.errors import TLError, UsageError
from tlnb.course.copies import FIRST, Edition, copy_lessons, lessons_folder, reset_lessons

CARD = "card.html"
ENDING_SECONDS = 10  # that JupyterLab gets to end its kernels


def demo(out: Path) -> None:
    """Execute lesson 1, print its comparison, and save the notebook and an HTML page."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter
    from tqdm import tqdm

    # The kernel's debugger warns of frozen modules in Python 3.11 and newer.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    book = nbformat.read(lessons_folder() / FIRST, as_version=4)
    out.mkdir(parents=True, exist_ok=True)
    code = [i for i, cell in enumerate(book.cells) if cell.cell_type == "code"]
    client = NotebookClient(
        book,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(out)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of its own local connection
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
    # The page has to look right without a network: it asks for no script from elsewhere.
    page, _ = HTMLExporter(mathjax_url="", require_js_url="").from_notebook_node(book)
    notebook, html = out / FIRST, out / FIRST.replace(".ipynb", ".html")
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


def lessons(folder: Path, edition: Edition, browse: bool) -> None:
    """Copy the lessons to a writable folder, never over a learner's copy, and open the first."""
    copied = copy_lessons(folder, edition)
    print(f"{copied} files copied to {folder.resolve()}; existing files were left unchanged.")
    if browse:
        _open_lab(folder.resolve(), f"/lab/tree/{FIRST}")


def _open_lab(folder: Path, page: str) -> None:
    """Run JupyterLab until it is ended, also by Ctrl-C, which then needs no second word."""
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    options = [
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.default_url={page}",
        "--ServerApp.answer_yes=True",
        "--ServerApp.log_level=WARN",
    ]
    lab = subprocess.Popen([sys.executable, "-m", "jupyterlab", *root, *options])
    try:
        lab.wait()
    except KeyboardInterrupt:
        lab.terminate()
        try:
            lab.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            lab.kill()
        print(f"JupyterLab has ended. To go on: tlnb lessons {folder}")


def reset(folder: Path, edition: Edition, sure: bool) -> None:
    """Print which copies differ from the course and, if `sure`, restore them."""
    lines = reset_lessons(folder, edition, sure)
    if not lines:
        print(f"Nothing to reset: the lessons in {folder.resolve()} are unchanged.")
        return
    print(*lines, sep="\n")
    if not sure:
        print(f"Nothing was changed. To reset them: tlnb lessons {folder} --reset --yes")


def train(job: Path, out: Path, trust: bool) -> None:
    """Run a job file, alone or as one of torchrun's processes; write record, network and card."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tlnb", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", help="run lesson 1 here, without a browser")
    show.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for the notebook and the page"
    )
    _add_lessons(commands.add_parser("lessons", help="copy the lessons and open the first"))
    _add_grade(commands.add_parser("grade", help="make a table of learners' hand-ins"))
    _add_train(commands.add_parser("train", help="run a job file written by %%tl_save --job"))
    _add_tune(
        commands.add_parser(
            "tune", help="search hyperparameters for a job file; processes may share one storage"
        )
    )
    return parser


def _add_train(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument(
        "--out",
        type=Path,
        default=Path("tlnb-run"),
        help="folder for the record, the network and the card",
    )


def _add_job(command: argparse.ArgumentParser) -> None:
    command.add_argument("job", type=Path)
    command.add_argument(
        "--trust",
        action="store_true",
        help="run the job's code even if it is more than nn.* constructors",
    )


def _add_lessons(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, nargs="?", default=Path("tlnb-lessons"))
    flags = {
        "--no-browser": "only copy the lessons",
        "--with-outputs": "keep the outputs, which give away what is to be predicted",
        "--student": "leave out the solutions, and what is for teachers",
        "--reset": "list the edited copies that would be restored",
        "--yes": "with --reset: restore them; edited copies are kept under another name",
    }
    for flag, words in flags.items():
        command.add_argument(flag, action="store_true", help=words)


def _add_grade(command: argparse.ArgumentParser) -> None:
    command.add_argument("where", type=Path, help="a folder of hand-ins (.json), or one of them")
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the table to this file")
    command.add_argument(
        "--verify",
        default="0",
        metavar="SHARE",
        help="train the runs of so many hand-ins again, e.g. 10%% or 100%%; default 0",
    )
    command.add_argument(
        "--require",
        nargs="+",
        default=[],
        metavar="EXERCISE",
        help="end with status 1 unless every hand-in passed these",
    )


def _add_tune(command: argparse.ArgumentParser) -> None:
    _add_job(command)
    command.add_argument(
        "--storage", required=True, help="a file for Optuna's journal, or a database's URL"
    )
    command.add_argument("--trials", type=int, default=20, help="number of trials to add")
    command.add_argument(
        "--best", type=Path, metavar="FILE", help="write a job with the best values to this file"
    )


def _carry_out(chosen: argparse.Namespace) -> int:
    if chosen.command == "demo":
        demo(chosen.out)
    elif chosen.command == "train":
        train(chosen.job, chosen.out, chosen.trust)
    elif chosen.command == "tune":
        tune(chosen.job, chosen.storage, chosen.trials, chosen.best, chosen.trust)
    elif chosen.command == "grade":
        return grade(chosen.where, chosen.csv, chosen.verify, chosen.require)
    else:
        edition = Edition(chosen.with_outputs, chosen.student)
        if chosen.reset:
            reset(chosen.folder, edition, chosen.yes)
        else:
            lessons(chosen.folder, edition, not chosen.no_browser)
    return 0


def grade(where: Path, csv: Path | None, verify: str, require: Sequence[str]) -> int:
    """Print a class's results; status 1 if a hand-in is refused or lacks a required exercise."""
    import tlnb.course.exercises  # noqa: F401 - the course's own, whose names the table has
    from tlnb.course.grading import grade_all, report, write_csv

    graded = grade_all(where, verify)
    if csv is not None:
        write_csv(csv, graded)
    print(report(graded))
    return 0 if all(each.fulfils(require) for each in graded) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `tlnb`."""
    chosen = _parser().parse_args(arguments)
    try:
        return _carry_out(chosen)
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


if __name__ == "__main__":
    sys.exit(main())
