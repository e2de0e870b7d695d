"""Cards of networks: the catalogue, a catalogue entry, a loaded network."""

from __future__ import annotations

from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.models.catalogue import Card, Catalogue
from tlnb.core.models.pretrained import PretrainedModel, Transform
from tlnb.display.bills import pretraining_facts
from tlnb.display.html import (
    UNSCROLLED_ROWS,
    Raw,
    card,
    facts,
    folded,
    line,
    link,
    note,
    safe,
    table,
)
from tlnb.display.words import count, flops, percent, size

ORDERS = {
    "small": "by parameters, the embedded ones before the others",
    "accurate": "by top-1 accuracy, the embedded ones, which were trained on other data, after the others",
    "fast": "by FLOPs for one image, the embedded ones before the others",
}


def catalogue_card(catalogue: Catalogue) -> str:
    rows = [
        [
            c.name,
            _min_width(c.source),
            _of_classes(c),
            count(c.parameters),
            flops(c.flops),
            "yes" if c.on_disk else "no",
            size(c.bytes),
        ]
        for c in catalogue.cards
    ]
    more = [
        [c.name, percent(c.top5), _edge(c.size), _edge(c.min_size), _links(c)]
        for c in catalogue.cards
    ]
    head = [
        "model",
        "trained on",
        "top-1, of classes",
        "parameters",
        "one image",
        "on disk",
        "file",
    ]
    height = "28em" if len(rows) > UNSCROLLED_ROWS else ""
    many = "model" if len(catalogue.cards) == 1 else "models"
    return card(
        f"{len(catalogue.cards)} {many}, {catalogue.sort} first",
        table(head, rows, left=2, height=height),
        folded(
            "Top-5, sizes of images, recipes, licences",
            table(["model", "top-5", "input", "at least", "more"], more, height=height),
        ),
        note(
            f"Order: {ORDERS[catalogue.sort]}. Figures are those of the default weights, as measured by whoever trained "
            "them, not here. An accuracy refers to the data trained on: compare only within one source; chance is 1 divided "
            "by the number of classes. One image is one forward pass; a multiply-add counts as two FLOPs. Input is the edge "
            "of the image in pixels: as trained, and the smallest possible."
        ),
        note(
            "%tl_load NAME loads one; its card lists its other weights. %tl_models --sort accurate, or fast"
        ),
    )


def _of_classes(c: Card) -> str:
    """Its accuracy with its number of classes, since accuracies of other tasks do not compare."""
    of = f" of {c.source_classes:,}" if c.accuracy is not None and c.source_classes else ""
    return percent(c.accuracy) + of


def _min_width(text: str) -> Raw:
    """Keep a column wide enough for a few words per line."""
    return Raw(f'<span style="display:inline-block;min-width:6em">{safe(text)}</span>')


def _edge(pixels: int | None) -> str:
    return f"{pixels or '–'}"


def _links(c: Card) -> Raw:
    links = (
        link(url, text)
        for text, url in (("recipe", c.recipe), ("licence", c.licence))
        if url.startswith("http")
    )
    return Raw(", ".join(links) or "–")


def model_card(model: PretrainedModel) -> str:
    c, t = model.card, model.transform
    rows = [
        ("trained on", _source_words(c)),
        ("accuracy there", _accuracies(c)),
        ("parameters", f"{c.parameters:,}" if c.parameters else None),
        (
            "one image",
            f"{flops(c.flops)} forward; a multiply-add counts as two" if c.flops else None,
        ),
        ("input", _input(t)),
        ("", f"mean {_numbers(t.mean)}; standard deviation {_numbers(t.std)}"),
        ("output layer", _output(model)),
        ("the bill you did not pay", _pretraining_lines(c)),
        ("weights", _weights(model)),
        ("what they are", c.about),
        ("recipe", link(c.recipe, c.recipe) if c.recipe else None),
        ("licence", link(c.licence, c.licence) if c.licence else None),
    ]
    parts = [facts(rows), *(note(n) for n in c.notes)]
    if c.others:
        parts.append(
            line(Raw(f"Other weights, with <code>%tl_load {safe(c.name)} --weights NAME</code>:"))
        )
        parts.append(_other_weights(c))
    return card(f"{model.name}: {c.source}", *parts)


def _source_words(c: Card) -> str:
    if not c.source_classes:
        return c.source
    images = f"{count(c.source_images)} images, " if c.source_images else ""
    return f"{c.source}: {images}{c.source_classes:,} classes"


def _accuracies(c: Card) -> str | None:
    if c.accuracy is None:
        return None
    five = f", top-5 {percent(c.top5)}" if c.top5 is not None else ""
    whose = "measured by the run" if c.family == "run" else "as stated by its authors"
    return f"{percent(c.accuracy)} {c.accuracy_of}{five} (chance: {percent(c.chance)}), {whose}"


def _input(t: Transform) -> str:
    cut = "" if t.resize == t.size else f", center-cropped after resizing to {t.resize}"
    return f"{t.size}×{t.size} pixels{cut} ({t.interpolation})"


def _output(model: PretrainedModel) -> str:
    has = f"{model.card.source_classes:,} classes" if model.card.source_classes else "its own"
    if model.target_classes is None:
        return f"{has}; will be replaced to fit the classes of the data"
    return f"{has}; replaced by a new one for the {model.target_classes:,} classes of the data"


def _pretraining_lines(c: Card) -> Raw | None:
    pretraining = pretraining_of(c)
    if pretraining is None:
        return None if c.family in ("own", "run") else Raw("unknown: its recipe is not published")
    lines = (f"{safe(name)}: {safe(text)}" for name, text in pretraining_facts(pretraining) if text)
    return Raw("<br>".join(lines))


def _weights(model: PretrainedModel) -> str:
    c = model.card
    if model.weights == "none":
        return "random: --weights none"
    if c.weights:
        return (
            f"{c.weights} ({'the default, ' if model.weights == 'default' else ''}{size(c.bytes)})"
        )
    if model.weights != "default":
        return f"from {model.weights}"
    where = {
        "own": "as your module holds them",
        "run": "the run's",
        "package": f"from a Python package ({size(c.bytes)})",
        "timm": f"downloaded for timm ({size(c.bytes)})",
    }
    return where.get(c.family, f"embedded ({size(c.bytes)})")


def _other_weights(c: Card) -> Raw:
    rows = [
        [
            o.weights,
            o.about,
            percent(o.accuracy),
            percent(o.top5),
            flops(o.flops),
            str(o.size),
            size(o.bytes),
            "yes" if o.on_disk else "no",
        ]
        for o in c.others
    ]
    head = ["weights", "what they are", "top-1", "top-5", "one image", "input", "file", "on disk"]
    return table(head, rows, left=2)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def catalogue_entry_card(entry: Card) -> str:
    rows = [
        ("trained on", _source_words(entry)),
        ("accuracy there", _accuracies(entry)),
        ("parameters", f"{entry.parameters:,}" if entry.parameters else None),
        ("one image", f"{flops(entry.flops)} forward" if entry.flops else None),
        ("input", f"{_edge(entry.size)} pixels, at least {_edge(entry.min_size)}"),
        (
            "weights",
            f"{entry.weights or entry.family}, {size(entry.bytes)}, {'on disk' if entry.on_disk else 'not on disk yet'}",
        ),
        ("what they are", entry.about),
        ("licence", link(entry.licence, entry.licence) if entry.licence else None),
    ]
    return card(entry.name, facts(rows), *(note(n) for n in entry.notes))
