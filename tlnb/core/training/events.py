"""Events of a run, as facts for programs; the notes for people are written from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

from tlnb.core.runtime.typed_json import typed

Fact = int | str


def _note(*, text: str) -> str:
    return text


def _cached_views(*, views: int) -> str:
    return f"trained on {views} cached views of each image"


def _one_view() -> str:
    return (
        "trained without augmentation: caching more views takes too much computing "
        "(--no-cache augments every batch)"
    )


def _uncached(*, why: str) -> str:
    return f"trained without a cache: {why}"


def _own_answers(*, others: int, images: int) -> str:
    return (
        f"answers from the cache differed from the network's own on {others} of {images} test "
        "images: the network's own are reported"
    )


def _budget(*, epochs: int, wanted: int, budget: str) -> str:
    if epochs == wanted:
        return f"all {wanted} epochs were forecast to fit into {budget}"
    return f"{epochs} of {wanted} epochs: more were forecast to exceed {budget}"


def _went_on(*, epoch: int) -> str:
    return f"cut off after epoch {epoch}, and went on from there"


def _stopped(*, epoch: int, epochs: int) -> str:
    return f"stopped after epoch {epoch} of {epochs}: %tl_resume goes on"


def _refit(*, images: int, epochs: int, wanted: int) -> str:
    shorter = f" (of {wanted} planned: more made the held-out labels clearly worse)"
    return (
        f"trained once more on all {images} labels in use, for {epochs} epochs"
        f"{shorter if epochs < wanted else ''}: network and accuracy are from there, "
        "curves and best epoch from the pass before"
    )


def _refit_stopped(*, epoch: int, epochs: int) -> str:
    return (
        f"stopped in the refit, after epoch {epoch} of {epochs}: the network is the one from "
        "before it; %tl_resume goes on"
    )


def _val_seen(*, run: str) -> str:
    return (
        f"run {run} was refitted, so the held-out labels have taught already: their accuracy is "
        "too high to choose by"
    )


def _frozen_moved(*, layers: str) -> str:
    return f"frozen layers moved: {layers}"


def _split_batches(*, pieces: int, same: str) -> str:
    return f"memory ran out: batches are split into {pieces} pieces{same}"


def _not_a_number(*, epoch: int, kept: str, advice: str) -> str:
    return f"the loss is not a number in epoch {epoch}; {kept}; {advice}"


def _no_checkpoint(*, epoch: int, reason: str) -> str:
    return f"no checkpoint from epoch {epoch} on ({reason}): %tl_resume goes back to before that"


def _joined_batches(*, size: int) -> str:
    return (
        f"batches of {size + 1}: one of {size} would leave one image alone, which has no batch "
        "statistics"
    )


def _shared_batches(*, processes: int, whose: str) -> str:
    return f"{processes} processes shared every batch: batch statistics are {whose}"


def _kept_statistics(*, layers: int) -> str:
    who, their = (
        (f"{layers} BatchNorm layers", "their") if layers > 1 else ("a BatchNorm layer", "its")
    )
    return (
        f"{who} kept {their} pretrained statistics and trained {their} weights alone: few images "
        "make poor statistics (--batch-statistics updates both)"
    )


def _not_kept(*, reason: str) -> str:
    return f"not kept on disk ({reason}): a later kernel will not find it"


# kind → the note, as a function of the event's facts
KINDS: dict[str, Callable[..., str]] = {
    "note": _note,
    "cached-views": _cached_views,
    "one-view": _one_view,
    "uncached": _uncached,
    "own-answers": _own_answers,
    "budget": _budget,
    "went-on": _went_on,
    "stopped": _stopped,
    "refit": _refit,
    "refit-stopped": _refit_stopped,
    "val-seen": _val_seen,
    "frozen-moved": _frozen_moved,
    "split-batches": _split_batches,
    "not-a-number": _not_a_number,
    "no-checkpoint": _no_checkpoint,
    "joined-batches": _joined_batches,
    "shared-batches": _shared_batches,
    "kept-statistics": _kept_statistics,
    "not-kept": _not_kept,
}

# Notes of records written before there were events, for those that programs read.
OLD_NOTES: tuple[tuple[str, str], ...] = (
    ("cached-views", r"trained on (?P<views>\d{1,9}) cached views of each image"),
    ("one-view", re.escape(_one_view())),
    ("uncached", r"trained without a cache: (?P<why>.*)"),
    (
        "budget",
        r"(?P<epochs>\d{1,9}) of (?P<wanted>\d{1,9}) epochs: "
        r"more were forecast to exceed (?P<budget>.*)",
    ),
    ("budget", r"all (?P<wanted>\d{1,9}) epochs were forecast to fit into (?P<budget>.*)"),
)
NUMERIC_FACTS = ("views", "epochs", "wanted")  # the groups above that are numbers


@dataclass(frozen=True)
class Event:
    """An event of a run; its text is the note.

    Raises:
        ValueError: the kind is unknown, or the facts are not those of the kind.
    """

    kind: str
    facts: dict[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not a kind of event")
        hints = get_type_hints(KINDS[self.kind])
        if self.facts.keys() != inspect.signature(KINDS[self.kind]).parameters.keys():
            raise ValueError(f"event {self.kind!r} has other facts than {', '.join(self.facts)}")
        for name, fact in self.facts.items():
            typed(hints[name], fact, name)

    def __str__(self) -> str:
        return KINDS[self.kind](**self.facts)


def event(kind: str, **facts: Fact) -> Event:
    """Make an event of a kind of `KINDS`, with its facts by name."""
    return Event(kind, facts)


def once(events: Iterable[Event]) -> list[Event]:
    """Drop events whose text repeats an earlier one."""
    return list({str(each): each for each in events}.values())


def events_of_notes(notes: Any) -> list[dict[str, Any]]:
    """Convert the notes of an old record to events, as JSON values.

    Raises:
        ValueError: the notes are not strings.
    """
    return [asdict(_of_note(note)) for note in typed(tuple[str, ...], notes, "notes")]


def _of_note(note: str) -> Event:
    for kind, pattern in OLD_NOTES:
        if match := re.fullmatch(pattern, note, re.DOTALL):
            facts = match.groupdict()
            if kind == "budget":
                facts.setdefault("epochs", facts["wanted"])
            return Event(kind, {n: int(f) if n in NUMERIC_FACTS else f for n, f in facts.items()})
    return event("note", text=note)
