"""Measure how far the lessons' claims are from failing, over draws and kinds of processor.

    python -m benchmarks.claims [NUMBER …] [--draws N] [--json FILE]

A claim is an `assert` in a lesson. Its margin is how far its comparison is from becoming false:
0.03 for `accuracy > 0.7` at 0.73; the smallest margin if it compares several times. Positive
numbers that are a factor of two or more apart in all executions are compared by their logarithms,
others by their difference. The margin is measured in
the unchanged lesson on every machine of `MACHINES`, which imitate other processors, and on this
machine over several draws of data and seeds. The chance of failing is the probability that a margin
is negative if margins over machines are normally distributed.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.table import markdown

LESSONS = Path(__file__).parents[1] / "lessons"
SEED_DISTANCE = 1000  # between two draws, so that the seeds of a lesson never overlap
MAX_CHANCE = 1e-4  # largest acceptable chance of failing on an untested machine
FACTOR = 2.0  # positive numbers always this far apart are compared by their logarithms

# how far a comparison is from changing: by the difference, and by the logarithms of positive numbers
Margin = tuple[float, float | None]


@dataclass(frozen=True)
class Machine:
    """How one execution of a lesson differs from an ordinary one."""

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    precision: str = (
        ""  # "": the processor's own; "other": fp32 where that is bf16, and the other way round
    )
    onednn: bool = True
    scale: float = 1.0  # of the network's inputs
    draw: int = 0


THIS_MACHINE = Machine("as it is")
MACHINES = (
    THIS_MACHINE,
    Machine("two threads", threads=2),
    Machine("AVX2 in torch", {"ATEN_CPU_CAPABILITY": "avx2"}),
    Machine("no vectors in torch", {"ATEN_CPU_CAPABILITY": "default"}),
    Machine("AVX2 in oneDNN", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Machine("no oneDNN", onednn=False, precision="fp32"),
    Machine("the other precision", precision="other"),
    Machine("inputs + 1e-6", scale=1 + 1e-6),
    Machine("inputs − 1e-6", scale=1 - 1e-6),
)


def machines(draws: int) -> list[Machine]:
    """All machines and draws for a lesson, starting with the unchanged lesson, here."""
    return [*MACHINES, *(replace(THIS_MACHINE, name=f"draw {n}", draw=n) for n in range(1, draws))]


# ── one execution ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Claims:
    """Margins of the claims of one execution, by their text."""

    margins: dict[str, list[Margin]] = field(default_factory=dict)
    held: dict[str, bool] = field(default_factory=dict)
    _now: str = ""

    def claim(self, text: str, test: Callable[[], object]) -> None:
        """Evaluate an `assert` and watch its comparisons; a failure does not stop the run."""
        self._now = text
        self.margins[text] = []
        try:
            self.held[text] = bool(test())
        finally:
            self._now = ""

    def compare(self, kinds: tuple[str, ...], *values: Any) -> bool:
        """Evaluate a comparison: `a < b < c` is `compare(("Lt", "Lt"), a, b, c)`."""
        whole = True
        for kind, left, right in zip(kinds, values, values[1:], strict=False):
            if self._now and (margin := _margin(kind, left, right)) is not None:
                self.margins[self._now].append(margin)
            whole = whole and COMPARE[kind](left, right)
        return whole


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "Lt": lambda a, b: a < b,
    "LtE": lambda a, b: a <= b,
    "Gt": lambda a, b: a > b,
    "GtE": lambda a, b: a >= b,
    "Eq": lambda a, b: a == b,
    "NotEq": lambda a, b: a != b,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
    "Is": lambda a, b: a is b,
    "IsNot": lambda a, b: a is not b,
}


def _margin(kind: str, left: Any, right: Any) -> Margin | None:
    """How far a comparison of two numbers is from changing; None for exact values."""
    if kind not in ("Lt", "LtE", "Gt", "GtE"):
        return None
    try:
        low, high = float(left), float(right)
    except (TypeError, ValueError):
        return None
    if kind.startswith("Gt"):
        low, high = high, low
    return high - low, math.log(high / low) if low > 0 and high > 0 else None


class Watched(ast.NodeTransformer):
    """Turns asserts, and comparisons in cells with asserts, into calls of `Claims`."""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        if any(isinstance(node, ast.Assert) for node in ast.walk(module)):
            self.generic_visit(module)
        return ast.fix_missing_locations(module)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        text = ast.Constant(ast.unparse(node.test))
        self.generic_visit(node)
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        return ast.copy_location(
            ast.Expr(_call("_claims.claim", text, ast.Lambda(nothing, node.test))), node
        )

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        kinds = ast.Tuple([ast.Constant(type(op).__name__) for op in node.ops], ast.Load())
        return ast.copy_location(
            _call("_claims.compare", kinds, node.left, *node.comparators), node
        )


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    owner, _, method = name.partition(".")
    return ast.Call(
        ast.Attribute(ast.Name(owner, ast.Load()), method, ast.Load()), list(arguments), []
    )


def execute(lesson: Path, machine: Machine) -> Claims:
    """Run a lesson's code cells in a shell in this process, in the current folder."""
    from IPython.core.interactiveshell import InteractiveShell

    _imitate(machine)
    shell, claims = InteractiveShell.instance(), Claims()
    shell.user_ns["_claims"] = claims
    shell.ast_transformers.append(Watched())
    for cell in json.loads(lesson.read_text("utf8"))["cells"]:
        if cell["cell_type"] == "code":
            done = shell.run_cell("".join(cell["source"]), silent=True)
            if "raises-exception" not in cell["metadata"].get("tags", ()):
                done.raise_error()
    return claims


def _imitate(machine: Machine) -> None:
    """Set what no environment variable can: precision, oneDNN, the draw, scaled inputs."""
    import torch

    from tlnb.core.data.builtin import leaves
    from tlnb.core.models.pretrained import Transform
    from tlnb.core.runtime import device
    from tlnb.session import Session

    torch.backends.mkldnn.set_flags(machine.onednn)
    if machine.precision:
        other = "fp32" if device._native_precision("cpu") == "bf16" else "bf16"
        precision = other if machine.precision == "other" else machine.precision
        device._native_precision = lambda _: precision
    if machine.scale != 1:
        normalise = Transform.normalise
        Transform.normalise = lambda self, images: normalise(self, images) * machine.scale  # type: ignore[method-assign]
    if machine.draw:
        for owner, name in (
            (Session, "data"),
            (Session, "train"),
            (Session, "forecast"),
            (leaves, "leaf_photos"),
        ):
            own = name in ("train", "forecast")
            setattr(owner, name, _drawn_otherwise(getattr(owner, name), machine.draw, own))
        seed = torch.manual_seed
        torch.manual_seed = lambda number: seed(
            number + SEED_DISTANCE * machine.draw
        )  # the cells of plain PyTorch


def _drawn_otherwise(function: Callable[..., Any], draw: int, own: bool) -> Callable[..., Any]:
    """Wrap a function to use another seed; a baseline without its own seed takes its run's."""

    def with_seed(*arguments: Any, **options: Any) -> Any:
        if not (own and options.get("scratch") and options.get("seed") is None):
            options["seed"] = (options.get("seed") or 0) + SEED_DISTANCE * draw
        return function(*arguments, **options)

    return with_seed


def one(lesson: Path, machine: Machine) -> dict[str, Any]:
    """Execute a lesson in a new process and folder.

    Returns:
        The margins by claim, or why there are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "lessons"
        shutil.copytree(LESSONS, work, ignore=shutil.ignore_patterns(".*"))
        root = str(LESSONS.parent)
        places = {"TLNB_HOME": f"{folder}/home", "TLNB_CACHE": f"{folder}/cache"}
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = {"OMP_NUM_THREADS": str(machine.threads)}
        env = {
            **os.environ,
            **machine.env,
            **places,
            **threads,
            "TLNB_TESTING": "1",
            "PYTHONPATH": path,
        }
        command = [
            sys.executable,
            "-m",
            "benchmarks.claims",
            "--one",
            str(lesson),
            json.dumps(vars(machine)),
        ]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        if done.returncode:
            return {"problem": (done.stderr.strip().splitlines() or ["?"])[-1][:200]}
        return json.loads(done.stdout.strip().splitlines()[-1])


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Claim:
    """A claim's margins over machines and over draws; exact claims have none."""

    lesson: str
    text: str
    machines: tuple[float, ...]
    draws: tuple[float, ...]
    failed: tuple[str, ...]  # where it did not hold

    @property
    def chance(self) -> float:
        """The chance of failing on another machine: the tail of a normal distribution."""
        if not self.machines:
            return 1.0 if self.failed else 0.0
        mean, spread = statistics.fmean(self.machines), _spread(self.machines)
        if spread == 0:
            return float(mean < 0)
        return 0.5 * math.erfc(mean / spread / math.sqrt(2))

    def row(self, draws: int) -> list[str]:
        held = draws - sum(
            name == THIS_MACHINE.name or name.startswith("draw ") for name in self.failed
        )
        figures = (
            [f"{statistics.fmean(self.machines):.3g}", f"{_spread(self.machines):.2g}"]
            if self.machines
            else ["exact", ""]
        )
        over_draws = f"{_spread(self.draws):.2g}" if len(self.draws) > 1 else ""
        chance = "under 1e-9" if self.chance < 1e-9 else f"{self.chance:.1e}"
        return [
            self.lesson,
            f"`{self.text.replace('|', chr(92) + '|')}`",
            *figures,
            over_draws,
            f"{held} of {draws}",
            chance,
        ]


def _spread(values: tuple[float, ...]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def claims_of(lesson: str, results: Mapping[str, dict[str, Any]]) -> Iterator[Claim]:
    """Collect the margins of each claim from the executions of a lesson."""
    texts = dict.fromkeys(text for result in results.values() for text in result.get("held", ()))
    for text in texts:
        margins = smallest(
            {name: got for name, r in results.items() if (got := r.get("margins", {}).get(text))}
        )
        failed = tuple(name for name, r in results.items() if not r.get("held", {}).get(text, True))
        on = [m.name for m in MACHINES]
        draws = [name for name in results if name == THIS_MACHINE.name or name.startswith("draw ")]
        yield Claim(
            lesson,
            text,
            tuple(margins[n] for n in on if n in margins),
            tuple(margins[n] for n in draws if n in margins),
            failed,
        )


def smallest(margins: Mapping[str, list[Margin]]) -> dict[str, float]:
    """The smallest margin of each execution, all on one scale."""
    logarithms = [log for found in margins.values() for _, log in found]
    far_apart = all(log is not None and abs(log) >= math.log(FACTOR) for log in logarithms)
    return {
        name: min(log if far_apart and log is not None else gap for gap, log in found)
        for name, found in margins.items()
    }


def measure(
    lessons: list[Path], draws: int, workers: int, file: Path | None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Execute every lesson on every machine and draw, unless `file` already has the result."""
    results: dict[str, dict[str, dict[str, Any]]] = (
        json.loads(file.read_text()) if file and file.exists() else {}
    )
    work = [
        (p, m) for p in lessons for m in machines(draws) if m.name not in results.get(p.stem, {})
    ]
    with ThreadPoolExecutor(workers) as pool:
        for (path, machine), result in zip(
            work, pool.map(lambda job: one(*job), work), strict=True
        ):
            results.setdefault(path.stem, {})[machine.name] = result
            failed = [text for text, held in result.get("held", {}).items() if not held]
            print(
                path.stem,
                machine.name,
                result.get("problem") or failed or "holds",
                sep=" | ",
                file=sys.stderr,
                flush=True,
            )
            if file:
                file.write_text(json.dumps(results, indent=1))
    return results


def main() -> None:
    """Print the table for BENCHMARKS.md; exit with status 1 if a claim may fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="numbers of lessons; default: all")
    parser.add_argument(
        "--draws", type=int, default=5, help="draws of data and seeds, including the lesson's own"
    )
    parser.add_argument("--workers", type=int, default=1, help="executions at a time")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="file of all margins; continues where an earlier call ended",
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        lesson, machine = Path(chosen.one[0]), Machine(**json.loads(chosen.one[1]))
        claims = execute(lesson, machine)
        print("\n" + json.dumps({"held": claims.held, "margins": claims.margins}))
        return
    lessons = [
        p
        for p in sorted(LESSONS.glob("*.ipynb"))
        if not chosen.numbers or str(int(p.name[:2])) in chosen.numbers
    ]
    results = measure(lessons, chosen.draws, chosen.workers, chosen.json)
    claims = [
        claim for lesson in results for claim in claims_of(lesson[:2].lstrip("0"), results[lesson])
    ]
    head = [
        "lesson",
        "claim",
        "margin",
        "spread over machines",
        "over draws",
        "held in",
        "chance of failing",
    ]
    print(markdown(head, [claim.row(chosen.draws) for claim in claims]))
    problems = [
        f"{lesson}, {name}: {r['problem']}"
        for lesson in results
        for name, r in results[lesson].items()
        if "problem" in r
    ]
    print(*problems, sep="\n")
    sys.exit(bool(problems) or any(claim.chance > MAX_CHANCE for claim in claims))


if __name__ == "__main__":
    main()
