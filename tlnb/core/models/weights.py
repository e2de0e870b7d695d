"""Weights from files: read without running code, and loaded completely or not at all."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import add
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tlnb.core.runtime.errors import ModelError, listed
from tlnb.core.runtime.torch_lock import alone
from tlnb.core.storage.download import file_hash, promised_hash

# keys under which training scripts store the state_dict; the first one present counts
STATE_KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights"),
    *("params", "ema", "model_ema", "state_dict_ema", "teacher", "student", "backbone"),
)
PREFIXES = (
    *("module", "model", "net", "network", "_orig_mod", "backbone", "encoder", "ema"),
    *("classifier_model", "base_model"),
)
UNSAFE = re.compile(r"(?:GLOBAL|global) ([\w.]+)")  # torch's name of a refused global
# modules whose globals run code on loading; builtins come without a module
CODE_MODULES = {
    *("builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib"),
    *("runpy", "pickle", "io", "socket", "ctypes", "code", "pty", "webbrowser", "operator"),
    *("functools", "pathlib", "tempfile", "threading", "multiprocessing"),
}
# left behind by FLOP counters
COUNTER_ENDINGS = (".total_ops", ".total_params", "total_ops", "total_params")
# BatchNorm's counter, which computes nothing; files written before 2018 lack it.
BATCH_COUNTER = "num_batches_tracked"


class State(dict[str, Tensor]):
    """A state_dict: tensors by name, torch's metadata, and notes about the file."""

    def __init__(
        self, tensors: Mapping[str, Tensor], file: str, notes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(tensors)
        self.file = file
        self.notes = notes
        # torch's name: versions of the modules that wrote the file
        self._metadata: dict[str, Any] = {}

    def renamed(self, new: Callable[[str], str | None]) -> State:
        """Rename the tensors; those mapped to None are dropped."""
        tensors = {name: v for k, v in self.items() if (name := new(k)) is not None}
        state = State(tensors, self.file, self.notes)
        state._metadata = self._metadata
        return state


def read_state(path: Path, checked: bool = False) -> State:
    """Read a state_dict from a file.

    A wrapper such as `{"state_dict": …}` is opened, and prefixes of wrapped modules are removed.

    Args:
        checked: whether the hash in the file's name has been verified already.

    Raises:
        ModelError: the file is missing or damaged, has a wrong hash, or does not hold a state_dict.
    """
    if not path.is_file():
        raise ModelError(
            f"the weights file {str(path)!r} does not exist: give default, none, or a file that "
            "exists"
        )
    promised = promised_hash(path.name)
    if promised and not checked and not (digest := file_hash(path)).startswith(promised):
        raise ModelError(
            f"{path.name} has the wrong hash ({digest[:8]}, not {promised[:8]}): download it again"
        )
    try:
        content = _content(path)
    except Exception as error:  # both readers raise many types for a damaged file
        raise ModelError(_unreadable(path, error)) from None
    wrapper, tensors = _tensors_of(content)
    if not tensors:
        raise ModelError(
            f"{path.name} does not hold a state_dict of tensors ({_kind(content)}): save "
            "model.state_dict() and give that file"
        )
    odd = next((k for k, v in tensors.items() if not isinstance(k, str) or not _plain(v)), None)
    if odd is not None:
        raise ModelError(
            f"{path.name} is not a usual state_dict (see {str(odd)[:80]!r}): save "
            "model.state_dict() and give that file"
        )
    kinds = [v.dtype for v in tensors.values() if v.is_floating_point()]
    small = next((kind for kind in kinds if kind.itemsize < 2), None)
    if small is not None:
        raise ModelError(
            f"{path.name} holds {str(small).removeprefix('torch.')}, which no layer here computes "
            "with: save {k: v.float() for k, v in model.state_dict().items()}"
        )
    taken = f"{path.name}: taken from its {wrapper!r}"
    return _checked(tensors, path.name, (taken,) if wrapper else ())


def _unreadable(path: Path, error: Exception) -> str:
    """Describe what is wrong with a file.

    A file with a script's settings beside its weights is not damaged.
    """
    said = str(error)
    refused = "weights_only" in said or "nsupported global" in said
    unsafe = UNSAFE.search(said) if refused else None
    if unsafe is None or unsafe[1].partition(".")[0] in CODE_MODULES or "." not in unsafe[1]:
        reason = " ".join(said.split())[:80] or type(error).__name__
        if unsafe:
            reason = f"it calls {unsafe[1]}"
        return f"{path.name} is damaged, or not a state_dict ({reason}): give another file"
    return (
        f"{path.name} holds a {unsafe[1]} beside its weights, and only plain tensors are read: "
        "save the weights alone where it was made, torch.save(model.state_dict(), 'weights.pth'), "
        f"or if you trust it, torch.save(torch.load({path.name!r}, weights_only=False)"
        "['state_dict'], 'weights.pth') ('model' in some files)"
    )


def _tensors_of(content: Any) -> tuple[str, dict[str, Tensor]]:
    """The wrapper's key, and its tensors; other contents (epochs, optimisers) are dropped."""
    if not isinstance(content, Mapping):
        return "", {}
    for key in STATE_KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            deeper, tensors = _tensors_of(inner)
            if tensors:
                return f"{key}.{deeper}".rstrip("."), tensors
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    return "", _State(tensors, getattr(content, "_metadata", {}))


class _State(dict[str, Tensor]):
    """Tensors with the versions of the modules that wrote them."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self._metadata = metadata


def _kind(content: Any) -> str:
    """What a file holds instead of a state_dict."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"its keys are {listed(map(str, content), 6)}" if content else "it is empty"


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and stores all its values.

    A few bytes can pretend to be terabytes.
    """
    dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # torch does not compress: a file that unpacks to more than its size is a bomb
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than its size")
    return torch.load(path, map_location="cpu", weights_only=True)


def _checked(tensors: Mapping[str, Tensor], file: str, notes: tuple[str, ...]) -> State:
    """The tensors, with a note about those that hold NaN or infinity."""
    floats = {k: v for k, v in tensors.items() if v.is_floating_point()}
    if broken := [k for k, v in floats.items() if not torch.isfinite(v.sum())]:
        shown = listed(broken, 3)
        notes += (f"{file}: NaN or infinite values in {shown}; such layers must be replaced",)
    state = State({k: v.detach() for k, v in tensors.items()}, file, notes)
    state._metadata = dict(getattr(tensors, "_metadata", {}))
    return state


def named_as(state: State, module: nn.Module) -> State:
    """Rename a state to the network's own names, dropping contents that do not belong to it.

    Prefixes that DataParallel, torch.compile and training scripts put before every name are
    removed, or added if the network has one itself, as long as more names match that way.
    """
    own = set(module.state_dict())
    best, dropped = state, list[str]()
    if not own & set(state) and (longer := _longer(state, own)):
        return longer
    while len(own & set(best)) < len(own) and (shorter := _shorter(best, own)):
        best, prefix = shorter
        dropped.append(prefix)
    if not dropped or not own & set(best):
        return state
    note = f"{state.file}: {''.join(dropped)!r} dropped from the front of every name"
    best.notes = (*state.notes, note)
    return best


def _shorter(state: State, own: set[str]) -> tuple[State, str] | None:
    """The names without a prefix that many share, if as many or more match the network's."""
    prefixes = Counter(k.partition(".")[0] for k in state if "." in k)
    for prefix in (f"{word}." for word, _ in prefixes.most_common(3) if word in PREFIXES):
        other = state.renamed(partial(_without, prefix))
        inside = {f"{k}.": v for k, v in state._metadata.items() if f"{k}.".startswith(prefix)}
        other._metadata = {k.removeprefix(prefix).rstrip("."): v for k, v in inside.items()}
        if len(own & set(other)) >= len(own & set(state)):
            return other, prefix
    return None


def _longer(state: State, own: set[str]) -> State | None:
    """The names with the network's own prefix added, if most of them match then."""
    for prefix in sorted({f"{key.partition('.')[0]}." for key in own if "." in key}):
        if 2 * sum(prefix + key in own for key in state) > len(state):
            longer = state.renamed(partial(add, prefix))
            longer._metadata = {f"{prefix}{k}".rstrip("."): v for k, v in state._metadata.items()}
            longer.notes = (*state.notes, f"{state.file}: {prefix!r} put before every name")
            return longer
    return None


def _without(prefix: str, key: str) -> str | None:
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with parameters on the meta device, for `fill` to load.

    Drawing random parameters takes longer than reading the file, and they would be thrown away.
    Buffers are computed as usual.
    """
    builder = get_ident()

    def without_numbers(_: nn.Module, __: str, parameter: Tensor | None) -> nn.Parameter | None:
        # the hook is global: other threads build as usual
        if parameter is None or get_ident() != builder:
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(without_numbers)  # type: ignore[arg-type]
    try:
        return make()
    finally:
        handle.remove()


def different(module: nn.Module, state: State) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Shapes in the file and in the network, for names in both whose shapes differ."""
    own = module.state_dict().items()
    shapes = {k: (state[k].shape, tensor.shape) for k, tensor in own if k in state}
    return {k: (given, wanted) for k, (given, wanted) in shapes.items() if given != wanted}


def fill(module: nn.Module, state: State, name: str, lenient: bool = False) -> tuple[str, ...]:
    """Load the file's tensors into a network; an outline takes them as they are.

    Args:
        lenient: the output layer may be missing or have another shape, and is then randomly
            initialised. Tensors of other parts (a loss, an optimiser) are ignored.

    Returns:
        A note for each of these.

    Raises:
        ModelError: names or shapes do not fit. The network is then half loaded: discard it.
    """
    head, notes = (last_layer(module) if lenient else ""), []
    apart = different(module, state)
    if head and apart and set(apart) == {k for k in state if _inside(k, head)}:
        in_file, own = next(iter(apart.values()))
        notes.append(
            f"{state.file}: its output layer has {in_file[0]:,} scores, {name} has {own[0]:,}: "
            "that layer starts anew"
        )
        state, apart = state.renamed(lambda key: None if key in apart else key), {}
    wrong = [f"{k} is {tuple(a)}, {name} has {tuple(b)}" for k, (a, b) in apart.items()]
    missing, foreign, broken = ([], [], []) if wrong else _loaded(module, state)
    only_head = bool(head and missing) and all(_inside(k, head) for k in missing)
    if only_head and len(missing) < len(module.state_dict()):
        notes = notes or [f"{state.file}: holds no output layer ({head}): that layer starts anew"]
        _start_anew(module.get_submodule(head))
        missing = []
    beside = _beside(module, foreign) if lenient else []
    if beside:
        notes.append(f"{state.file}: left out, not part of {name}: {listed(beside, 3)}")
    wrong += [*broken, *(f"{k} is missing" for k in missing)]
    wrong += [f"{k} is not part of {name}" for k in foreign if k not in beside]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ModelError(f"{state.file} does not fit {name}: {'; '.join(wrong[:3])}{more}")
    return tuple(notes)


def _beside(module: nn.Module, foreign: Sequence[str]) -> list[str]:
    """Tensors of other parts than the network's, and counters."""
    parts = {key.partition(".")[0] for key in module.state_dict()}
    return [k for k in foreign if k.partition(".")[0] not in parts or k.endswith(COUNTER_ENDINGS)]


def last_layer(module: nn.Module) -> str:
    """The name of the output layer in most networks: the last linear layer or convolution."""
    parts = (item for item in module.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d))
    return next(reversed([name for name, _ in parts if name]), "")


def _inside(key: str, layer: str) -> bool:
    return key.rpartition(".")[0] == layer


def _start_anew(layer: nn.Module) -> None:
    """Randomly initialise a layer of an outline or a network, with a fixed seed."""
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer.to_empty(device="cpu")
        layer.reset_parameters()  # type: ignore[operator]


def _loaded(module: nn.Module, state: State) -> tuple[list[str], list[str], list[str]]:
    """Load a state; returns missing names, unexpected names, and other errors.

    The modules themselves translate names of older versions.
    """
    assign = any(p.is_meta for p in module.parameters())
    ready = State(_like(module, state) if assign else state, state.file)
    # The network's own version is assumed to be today's (MNASNet insists on one), that of its parts
    # the oldest.
    ready._metadata = state._metadata or {"": {"version": module._version}}
    try:
        keys = module.load_state_dict(ready, strict=False, assign=assign)
    except (RuntimeError, ValueError) as error:  # from the modules' own translation
        return [], [], [" ".join(str(error).split())[:120]]
    missing = [k for k in keys.missing_keys if not k.endswith(BATCH_COUNTER)]
    return missing, list(keys.unexpected_keys), []


def _like(module: nn.Module, state: State) -> dict[str, Tensor]:
    """The file's tensors, in the network's dtypes, each with its own memory."""
    kinds = {k: v.dtype for k, v in module.state_dict().items()}
    return {k: _own(v.to(kinds.get(k, v.dtype)).contiguous()) for k, v in state.items()}


def _own(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
