"""Keys of cached activations: a hash of everything that made them.

For a module: its class and options, hooks, mode, parameters and all buffers. For a function: its code, defaults, closure and
the globals it reads. Code of libraries is named, with its version. An object that none of this describes has no key, so
activations that depend on it are computed again each time.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

PLAIN = (
    types.NoneType,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    types.EllipsisType,
    slice,
    range,
    enum.Enum,
    PurePath,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
LIBRARIES = {"torch", "torchvision", "numpy", "timm", *sys.stdlib_module_names} - {"__main__"}
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
FLAGS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
NOT_FORWARD = {  # what a module holds that its values do not depend on, or that is described by itself
    *HOOKS,
    *FLAGS,
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
}
NOT_CODE = {  # of a class
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__annotations__",
    "__annotate_func__",
    "__annotations_cache__",
    "__firstlineno__",
    "__static_attributes__",
    "__abstractmethods__",
    "_abc_impl",
}
PIECE = 2**24  # bytes that are hashed at a time, in as many threads as torch uses


def identity(module: nn.Module, without: Iterable[nn.Module] = ()) -> str | None:
    """A key of what a module computes in its present modes; None where something in it has no key.

    Args:
        without: modules in it that the result does not depend on.
    """
    return _key(module, numbers=True, without=without)


def structure(module: nn.Module) -> str | None:
    """The same without the values in its tensors: what shapes and FLOPs depend on."""
    return _key(module, numbers=False)


def pixels(images: Tensor) -> str:
    """A hash of images in memory, as they are now."""
    flat = images.detach().cpu().contiguous().view(-1).view(torch.uint8)
    parts = [part.numpy() for part in flat.split(PIECE)]
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        digests = list(pool.map(lambda part: hashlib.blake2b(part).digest(), parts))
    about = f"{images.dtype} {tuple(images.shape)}".encode()
    return hashlib.blake2b(about + b"".join(digests), digest_size=16).hexdigest()


def _key(module: nn.Module, numbers: bool, without: Iterable[nn.Module] = ()) -> str | None:
    from torch.nn.modules import module as every

    if every._global_forward_hooks or every._global_forward_pre_hooks:
        return None
    description = _Description(numbers, without)
    try:
        description.add(module)
    except (_Unknown, RuntimeError, NotImplementedError, RecursionError):
        return None  # tensors of uncommon kinds raise any of these
    return description.hexdigest()


class _Unknown(Exception):
    """An object that has no key."""


class _Description:
    """Hashes everything that a value depends on."""

    def __init__(self, numbers: bool, without: Iterable[nn.Module]) -> None:
        self._numbers, self._digest = numbers, hashlib.sha256()
        self._without = {id(module) for module in without}
        self._seen: dict[int, tuple[int, object]] = {}  # the objects too: an id is used again

    def hexdigest(self) -> str:
        return self._digest.hexdigest()[:32]

    def add(self, value: Any) -> None:
        """Hash a value and everything it refers to."""
        if isinstance(value, PLAIN):
            self._say(type(value).__qualname__, repr(value))
        elif id(value) in self._without:
            self._say("left out")
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._new(value)

    def _say(self, *words: object) -> None:
        self._digest.update(repr(words).encode())

    def _new(self, value: Any) -> None:
        for kinds, describe in _KINDS:
            if isinstance(value, kinds):
                self._say(type(value).__qualname__)
                describe(self, value)
                return
        self._object(value)

    # ── networks ──

    def _module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise _Unknown
        self._hooks(module)
        if isinstance(module, fx.GraphModule):
            self._graph(module)
        else:
            self.add(type(module))
            self._named({k: v for k, v in module.__dict__.items() if k not in NOT_FORWARD})
        for held in (module._parameters, module._buffers, module._modules):
            self._named(held)

    def _graph(self, module: fx.GraphModule) -> None:
        """Operations in the order in which they run; those that are functions, with their code."""
        self._say(module.code)
        for node in module.graph.nodes:
            if node.op == "call_function":
                self.add(node.target)

    def _hooks(self, module: nn.Module) -> None:
        for name in HOOKS:
            for key, hook in getattr(module, name).items():
                self._say(name, [key in getattr(module, flag, ()) for flag in FLAGS])
                self.add(hook)

    def _tensor(self, tensor: Tensor) -> None:
        self._say(str(tensor.dtype), tuple(tensor.shape))
        if self._numbers:
            flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
            self._digest.update(flat.numpy().data)

    # ── values ──

    def _named(self, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            self.add(name)
            self.add(value)
        self._say("end")

    def _sequence(self, values: Any) -> None:
        self._say(len(values))
        for value in values:
            self.add(value)

    def _set(self, values: Any) -> None:
        if not all(isinstance(value, PLAIN) for value in values):
            raise _Unknown
        self._say(sorted(map(repr, values)))

    def _array(self, array: Any) -> None:
        if array.dtype.hasobject:
            raise _Unknown
        self._say(str(array.dtype), array.shape, array.tobytes())

    def _object(self, value: Any) -> None:
        """An object of a class written in Python: that class, and the object's attributes."""
        written = all(c is object or not _by_name(c) for c in type(value).__mro__)
        if not written or not hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            raise _Unknown
        self.add(type(value))
        self._named(value.__dict__)

    # ── code ──

    def _class(self, kind: type) -> None:
        self._say(kind.__module__, kind.__qualname__)
        if _by_name(kind):
            return
        self._sequence(kind.__bases__)
        self._named({k: v for k, v in sorted(vars(kind).items()) if k not in NOT_CODE})

    def _function(self, function: types.FunctionType) -> None:
        if _by_name(function):
            self._say(function.__module__, function.__qualname__)
            return
        self._code(function.__code__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        self._named(function.__dict__)
        for cell in function.__closure__ or ():
            self.add(_content(cell))
        for name in sorted(_globals_of(function.__code__)):
            self.add(function.__globals__.get(name))

    def _code(self, code: types.CodeType) -> None:
        self._say(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.add(constant)

    def _method(self, method: types.MethodType) -> None:
        self.add(method.__func__)
        self.add(method.__self__)

    def _builtin(self, function: Any) -> None:
        """A function of C's, and the object that it belongs to, unless that is its module."""
        self._say(getattr(function, "__module__", ""), getattr(function, "__qualname__", ""))
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.add(owner)

    def _partial(self, partial: functools.partial[Any]) -> None:
        self._sequence((partial.func, partial.args, partial.keywords))

    def _wrapped(self, wrapped: Any) -> None:
        self.add(wrapped.__func__)

    def _property(self, held: property) -> None:
        self.add(held.fget)

    def _package(self, module: types.ModuleType) -> None:
        if not _of_library(module.__name__):
            raise _Unknown
        self._say(module.__name__, _version(module.__name__))

    def _weak(self, reference: weakref.ref[Any]) -> None:
        self.add(reference())

    def _operator(self, operator: Any) -> None:
        self._say(str(operator))


_KINDS: tuple[tuple[Any, Any], ...] = (
    (nn.Module, _Description._module),
    (Tensor, _Description._tensor),
    (Mapping, _Description._named),
    ((list, tuple), _Description._sequence),
    ((set, frozenset), _Description._set),
    ((np.ndarray, np.generic), _Description._array),
    (type, _Description._class),
    (types.FunctionType, _Description._function),
    (types.MethodType, _Description._method),
    (functools.partial, _Description._partial),
    ((staticmethod, classmethod), _Description._wrapped),
    (property, _Description._property),
    (types.ModuleType, _Description._package),
    (weakref.ref, _Description._weak),
    ((torch._ops.OpOverload, torch._ops.OpOverloadPacket), _Description._operator),
    (
        (
            types.BuiltinFunctionType,
            types.MethodDescriptorType,
            types.WrapperDescriptorType,
            types.MethodWrapperType,
            types.GetSetDescriptorType,
        ),
        _Description._builtin,
    ),
)


def _by_name(made: Any) -> bool:
    """Whether a class or function comes with a library under the name that it says, and so needs no further description."""
    return _of_library(made.__module__ or "builtins")


def _of_library(name: str) -> bool:
    return name.partition(".")[0] in LIBRARIES


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name.partition(".")[0]), "__version__", ""))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@lru_cache(maxsize=1024)
def _globals_of(code: types.CodeType) -> frozenset[str]:
    """The names of globals that some code reads, functions within it included."""
    return frozenset(_read_by(code))


def _read_by(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read_by(constant)
