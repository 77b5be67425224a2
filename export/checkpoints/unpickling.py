"""PyTorch files whose tensors lie beside objects of any class: nothing that a file names is imported.

`torch.load(weights_only=True)` refuses a file that names a class it does not know, be it the settings of a
training beside the weights. Here whatever a file names is a Placeholder, which takes any arguments and any
state, but for OrderedDict and the three functions of torch that make tensors. Of these a file gets an object
of its own to call, since pickle lets it set attributes of all that it gets.

Source: "Restricting globals" in the documentation of `pickle`.
"""

from __future__ import annotations

import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from stages.errors import CheckpointError

_MAKES_TENSORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("collections", "OrderedDict"): OrderedDict,
}
# A file that names these was made to run something.
_RUN_THINGS = {"nt", "os", "posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys"}
_BUILTINS = {"__builtin__", "builtins"}  # PyTorch writes Python 2's name, and that of each builtin
_RUN_BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "execfile", "file", "input", "open"}


class _Maker:
    """Calls `make`, a function or class that a file must not change, for a file that may change this."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: object) -> Any:
        return self._make(*args)


class Placeholder(dict[Any, Any]):
    """Stands for an object of the class `origin`, which was not imported; takes any state, runs nothing."""

    origin = ""
    state: object = None

    def __new__(cls, *_args: object, **_names: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_names: object) -> None:
        super().__init__()

    def __call__(self, *_args: object, **_names: object) -> Placeholder:
        return Placeholder()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, _item: object) -> None:
        """An item of a list that nobody reads."""

    def extend(self, _items: object) -> None:
        """Items of a list that nobody reads."""

    add = append
    __hash__ = object.__hash__  # type: ignore[assignment]

    @property
    def is_module(self) -> bool:
        """Whether this stands for an nn.Module."""
        return isinstance(self.state, dict) and "_parameters" in self.state

    def members(self) -> Mapping[Any, Any]:
        """Weights and layers of a module; else the items of a mapping."""
        if isinstance(self.state, dict) and self.is_module:
            held = [self.state.get(name) for name in ("_parameters", "_buffers", "_modules")]
            return {name: value for each in held if isinstance(each, dict) for name, value in each.items()}
        return self


def load_without_classes(path: Path, file: str, *, mapped: bool) -> tuple[Any, frozenset[str]]:
    """What torch.save wrote to `file`, and the names of the classes that became placeholders.

    `path` is what errors call the file. Raises CheckpointError where it names what would run something, and
    whatever torch.load raises for a file that is damaged.
    """
    origins: dict[str, type[Placeholder]] = {}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module in _RUN_THINGS or (module in _BUILTINS and name in _RUN_BUILTINS):
                raise CheckpointError(
                    f"{path} is no plain checkpoint: it would run {module}.{name}; do not use it"
                )
            if known := _MAKES_TENSORS.get((module, name)):
                return _Maker(known)
            origin = f"{module}.{name}"
            return origins.setdefault(origin, type(name, (Placeholder,), {"origin": origin}))

    module: Any = types.ModuleType("restricted_pickle")
    module.Unpickler = Unpickler
    module.load = lambda opened, **names: Unpickler(opened, **names).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = torch.load(file, "cpu", module, weights_only=False, mmap=mapped)
    return tree, frozenset(origins)
