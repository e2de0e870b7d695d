"""Inject random faults into a small training, and count corrupt reads, losses and tracebacks.

    python -m benchmarks.faults [--times 200] [--seed 0]

A fault is SIGKILL at a random moment while photos are decoded into their file, while activations
are cached, while the network trains, or while a run is saved; or a stored file (checkpoint,
session, activations, images, saved network) with changed bytes, cut short or overwritten with
zeros. Then another process continues: it resumes or, if that is refused in one line, trains again.
Every epoch is written (`TLNB_AT_RISK=0`), so that as many writes as possible are hit. What must
hold: the result equals that of an undisturbed training bit for bit; no epoch reported as finished
is repeated; no failure shows more than one line.

Every training is a process with one thread, forked from one that has already trained once.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tlnb.core.runtime.errors import TLError
from tlnb.core.training import checkpoint, session_folder
from tlnb.core.training.run import Run
from tlnb.session import Session

EPOCHS = 5
PHOTOS, EDGE = 20, 100  # photos of each of two classes; edge in pixels
KILL_PHASES = ("decoding", "caching", "training", "saving")  # by the phase
FILES = {
    "checkpoint": "home/sessions/*/runs/*.safetensors",
    "session": "home/sessions/*/session.json",
    "activations": "cache/activations/*.npy",
    "images": "cache/images/*.npy",
    "network": "net.safetensors",
}
DAMAGES = ("bytes", "cut", "zeros")
MAX_KILL_DELAY = 0.12  # a kill comes at most so many seconds after a phase begins
fork = multiprocessing.get_context("fork")


@dataclass
class Outcome:
    """What a process started from and produced."""

    fingerprint: str = ""  # of the data
    losses: tuple[float, ...] = ()
    weights: str = ""  # hash of the network
    saved: str = ""  # hash of the network in the saved file
    had: int = 0  # epochs on disk when it began
    lines: list[str] = field(default_factory=list)  # refusals
    traceback: str = ""

    def same(self, other: Outcome) -> bool:
        """Whether data and network are the same, bit for bit."""
        return (self.fingerprint, self.losses, self.weights, self.saved) == (
            other.fingerprint,
            other.losses,
            other.weights,
            other.saved,
        )


@dataclass
class Count:
    """The counts for one kind of fault."""

    times: int = 0
    corrupt: int = 0  # the result differs from the one without the fault
    lost: int = 0  # finished epochs that were repeated; the maximum over faults
    tracebacks: int = 0
    refused: int = 0  # resuming was refused in one line, and the training repeated


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tlnb-faults-") as top:
        counts = faults(Path(top), chosen.times, random.Random(chosen.seed))
    print(table(counts))
    print(f"{time.perf_counter() - began:.0f} s in all")


def faults(top: Path, times: int, draw: random.Random) -> dict[str, Count]:
    """Inject `times` faults, taking turns over the kinds, and return the counts by kind."""
    photos(top / "photos")
    run(first, top / "warm", _Nobody())  # so that forked processes need not import everything again
    whole, stopped = top / "whole", top / "stopped"
    reference = finished(whole, first)
    finished(stopped, halfway)
    if reference.traceback:
        raise RuntimeError(reference.traceback)
    kinds = [f"killed while {phase}" for phase in KILL_PHASES] + [
        f"{file}: {way}" for file in FILES for way in DAMAGES
    ]
    counts: dict[str, Count] = defaultdict(Count)
    for i in range(times):
        kind = kinds[i % len(kinds)]
        place = top / f"fault{i}"
        said = 0
        if kind.startswith("killed"):
            place.mkdir()
            said = killed(place, kind.split()[-1], draw)
        else:
            file, way = kind.split(": ")
            shutil.copytree(stopped if file in ("checkpoint", "session") else whole, place)
            damage(draw.choice(sorted(place.glob(FILES[file]))), way, draw)
        note(counts[kind], finished(place, again), reference, said)
        shutil.rmtree(place)
    return dict(counts)


def note(count: Count, outcome: Outcome, reference: Outcome, said: int) -> None:
    """Count one more fault."""
    count.times += 1
    count.tracebacks += bool(outcome.traceback) or any("\n" in words for words in outcome.lines)
    count.corrupt += not outcome.traceback and not outcome.same(reference)
    count.refused += bool(outcome.lines)
    count.lost = max(count.lost, said - outcome.had)
    if outcome.traceback:
        print(outcome.traceback)


def table(counts: dict[str, Count]) -> str:
    """Format a table: a row per kind, and the totals."""
    rows = [
        "| fault | times | corrupt reads | epochs lost, at most | tracebacks | refused in one line |",
        "|---|---|---|---|---|---|",
    ]
    total = Count()
    for kind, c in counts.items():
        rows.append(
            f"| {kind} | {c.times} | {c.corrupt} | {c.lost} | {c.tracebacks} | {c.refused} |"
        )
        total = Count(
            total.times + c.times,
            total.corrupt + c.corrupt,
            max(total.lost, c.lost),
            total.tracebacks + c.tracebacks,
            total.refused + c.refused,
        )
    return "\n".join(
        [
            *rows,
            f"| all | {total.times} | {total.corrupt} | {total.lost} | {total.tracebacks} | {total.refused} |",
        ]
    )


# ── faults ────────────────────────────────────────────────────────────────────────────────────────


def killed(place: Path, phase: str, draw: random.Random) -> int:
    """Start a training and kill it at a random moment after it reported this phase.

    Returns:
        The last epoch that it reported as finished.
    """
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=run, args=(first, place, sender))
    process.start()
    sender.close()
    wanted, ended = draw.randrange(EPOCHS) if phase == "training" else 0, 0
    deadline = None
    try:
        while deadline is None or (left := deadline - time.monotonic()) > 0:
            if deadline is not None and not receiver.poll(left):
                break
            message = receiver.recv()
            if isinstance(message, Outcome):
                break
            now, epoch = message
            ended = max(ended, epoch if now == "training" else 0)
            if deadline is None and now == phase and epoch >= wanted:
                deadline = time.monotonic() + draw.uniform(0.0, MAX_KILL_DELAY)
    except EOFError:
        pass
    process.kill()
    while receiver.poll():  # messages sent before the kill
        try:
            message = receiver.recv()
        except EOFError:
            break
        ended = max(
            ended, message[1] if isinstance(message, tuple) and message[0] == "training" else 0
        )
    process.join()
    return ended


def damage(file: Path, way: str, draw: random.Random) -> None:
    """Damage a file as a bad disk would."""
    content = bytearray(file.read_bytes())
    at = draw.randrange(len(content))
    if way == "cut":
        del content[at:]
    elif way == "zeros":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    else:
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] ^= draw.randint(1, 255)
    file.write_bytes(bytes(content))


# ── processes ─────────────────────────────────────────────────────────────────────────────────────

Say = Callable[[tuple[str, int]], None]


def finished(place: Path, what: Callable[[Path, Say], Outcome]) -> Outcome:
    """Run `what` in a new process and return its outcome."""
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=run, args=(what, place, sender))
    process.start()
    sender.close()
    outcome = Outcome(traceback="the process ended without a message")
    try:
        while not isinstance(message := receiver.recv(), Outcome):
            pass
        outcome = message
    except EOFError:
        pass
    process.join()
    return outcome


class _Nobody:
    """A connection that drops all messages."""

    def send(self, _: object) -> None:
        pass


def run(what: Callable[[Path, Say], Outcome], place: Path, there: Connection | _Nobody) -> None:
    """Run `what` in the new process and send its outcome."""
    place.mkdir(exist_ok=True)
    os.environ |= {
        "TLNB_HOME": str(place / "home"),
        "TLNB_CACHE": str(place / "cache"),
        "TLNB_MEMORY": "1kB",
        "TLNB_DISK": "1GB",
        "TLNB_AT_RISK": "0",
    }
    try:
        there.send(what(place, there.send))
    except BaseException:
        there.send(Outcome(traceback=traceback.format_exc()))


def prepared(place: Path, say: Say) -> Session:
    """A session with photos in a file, a network, and a plan whose activations go to files."""
    session = Session()
    session.report = lambda p: say((p.phase, p.epoch))
    session.data(place.parent / "photos", size=32)
    session.load(
        "glyphnet", "none"
    )  # of pretrained weights the accuracy on their own source would be measured too
    session.strategy("partial")
    return session


def trained(session: Session, say: Say) -> Run:
    """Train the plan."""
    say(("caching", 0))
    return session.train(epochs=EPOCHS, augment="none", precision="fp32")


def first(place: Path, say: Say) -> Outcome:
    """The whole work without a fault."""
    session = prepared(place, say)
    return ended(session, trained(session, say), place, say, Outcome())


def halfway(place: Path, say: Say) -> Outcome:
    """Train, and interrupt the training in the middle."""
    session = prepared(place, say)

    def report(progress: Any) -> None:
        if progress.phase == "training" and progress.epoch == EPOCHS // 2:
            raise KeyboardInterrupt

    session.report = report
    trained(session, say)
    return Outcome()


def again(place: Path, say: Say) -> Outcome:
    """Continue after a fault, or start again if resuming is refused."""
    outcome = Outcome(had=epochs_on_disk())
    session = Session()
    try:
        session.resume()
    except TLError as error:
        outcome.lines.append(str(error))
        session.store.close()
        session = Session()
    if not session.runs or session.runs[-1].status != "finished":
        session = prepared(place, say)
        trained(session, say)
    run = session.runs[-1]
    state = session.state
    networks = {run.name: (state.model, state.anatomy), **state.networks}
    session.commit(replace(state, networks=networks))
    return ended(session, run, place, say, outcome)


def epochs_on_disk() -> int:
    """The number of epochs of the unfinished run that are on disk."""
    try:
        runs = sorted((session_folder.find_session(None) / "runs").glob("*.safetensors"))
        return len(checkpoint.read(runs[0])[1].epochs) if runs else 0
    except TLError:
        return 0


def ended(session: Session, run: Run, place: Path, say: Say, outcome: Outcome) -> Outcome:
    """Save the run, unless an intact file exists, and read the file back."""
    file = place / "net.safetensors"
    saved = ""
    if file.exists():
        try:
            saved = hashed(Session().load(file).module)
        except TLError as error:
            outcome.lines.append(str(error))
    if not saved:
        say(("saving", 0))
        session.save(file, run)
        saved = hashed(Session().load(file).module)
    outcome.saved, outcome.weights = saved, hashed(run.network())
    outcome.losses = tuple(e.train_loss for e in run.epochs)
    outcome.fingerprint = run.fingerprint
    return outcome


def hashed(module: torch.nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def photos(top: Path) -> None:
    """Write two classes of noisy pictures."""
    draw = np.random.default_rng(0)
    for name, tone in (("bright", 170), ("dark", 80)):
        (top / name).mkdir(parents=True)
        for i in range(PHOTOS):
            pixels = draw.normal(tone, 40, (EDGE, EDGE, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(top / name / f"{i}.png")


if __name__ == "__main__":
    main()
