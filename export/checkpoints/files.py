"""The tensors of a file or of a folder from a hub, by their full names; nothing of it is run.

Tensors are mapped from the disk, not copied, wherever the file allows it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.checkpoints.kinds import kind_of
from export.checkpoints.official import size_note
from export.checkpoints.unpickling import Placeholder, load_without_classes
from stages.errors import CheckpointError
from stages.json_values import brief

Leaf = Tensor | Placeholder
SAVE_PLAINLY = "save its weights alone: torch.save(model.state_dict(), FILE)"
_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")
_ON_HUBS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# A file of a folder that is no checkpoint as it is: what the folder is and what to do.
_FOLDERS = {
    ".metadata": "a distributed checkpoint; make one file of it: "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE",
    "zero_to_fp32.py": "a DeepSpeed checkpoint; make one file of it with the zero_to_fp32.py in it",
    "saved_model.pb": "a TensorFlow model; give PyTorch or safetensors weights",
    "data.pkl": "a checkpoint that was unpacked; give the file it was before",
    "adapter_config.json": "an adapter without its model; merge them (peft: model.merge_and_unload()) and "
    "save that",
}
_MAX_LEAVES = 100_000  # a SAM vit_h with its average and its optimiser's state has 3,000
_MAX_MEMBERS = 2_000_000  # of lists and dictionaries; some trainings keep what each step lost
_MAX_NAME = 1000  # characters; SAM's longest name has 70
_MAX_PACKED = 20  # times its size that a packed file may take; random weights take 1.1
_DAMAGED = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(AssertionError, MemoryError, OverflowError, RecursionError, zipfile.BadZipFile),
)


@dataclass(frozen=True)
class Contents:
    """What a file holds: tensors by the names of all that they lie in, joined by points.

    A Placeholder among `leaves` is an object of a class that was left unread, which may have held tensors.
    `metadata` is that of a safetensors file; `classes` are the names of those classes.
    """

    leaves: Mapping[str, Leaf]
    metadata: Mapping[str, str] = field(default_factory=dict)
    classes: frozenset[str] = frozenset()


def read_contents(path: Path) -> Contents:
    """Raises CheckpointError for what is missing, damaged, of another kind, or would run code."""
    if path.is_dir():
        return read_contents(_file_in(path))
    kind = kind_of(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "json":
        return _read_shards(path)
    return _read_pickled(path, mapped=kind == "zip" and _is_stored(path))


def _file_in(folder: Path) -> Path:
    for name in _ON_HUBS:
        if (folder / name).exists():
            return folder / name
    for name, what in _FOLDERS.items():
        if (folder / name).exists():
            raise CheckpointError(f"{folder} is {what}")
    files = sorted(name for name in _names_in(folder) if name.lower().endswith(_SUFFIXES))
    give = f"give one of its files: {', '.join(files[:5])}" if files else "give the path of a checkpoint"
    raise CheckpointError(f"{folder} is a folder without {_ON_HUBS[0]} or {_ON_HUBS[2]}; {give}")


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as exc:
        raise CheckpointError(f"{folder} cannot be read: {exc.strerror}; give a folder you may read") from exc


def _read_shards(path: Path) -> Contents:
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        index = None
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{path} is a text, not the weights; give the file or folder that holds them")
    parts: list[Contents] = []
    beside = _names_in(path.parent)
    for name in sorted(set(names.values())):
        if "/" in name:
            raise CheckpointError(f"{path} names {brief(name)}, a file outside its folder; do not use it")
        if name not in beside:
            raise CheckpointError(f"{path} names {brief(name)}, which is not beside it; download it too")
        if kind_of(path.parent / name) == "json":
            raise CheckpointError(f"{path} names {brief(name)}, which is a text; download the weights")
        parts.append(read_contents(path.parent / name))
    leaves = {name: leaf for part in parts for name, leaf in part.leaves.items()}
    return Contents(leaves, {}, frozenset().union(*(part.classes for part in parts)))


def _read_safetensors(path: Path) -> Contents:
    try:
        with _named(path) as file, safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            leaves = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path} is truncated or no safetensors file; make or copy it again") from exc
    return Contents(leaves, metadata)


def _read_pickled(path: Path, *, mapped: bool) -> Contents:
    """A file of torch.save; a second reading passes over objects of classes that torch does not know."""
    try:
        # torch takes whatever is named .safetensors for such a file
        with _named(path, avoid=".safetensors") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files it then refuses, torch also says how they were pickled
            try:
                tree, classes = torch.load(file, "cpu", weights_only=True, mmap=mapped), frozenset[str]()
            except pickle.UnpicklingError:
                tree, classes = load_without_classes(path, file, mapped=mapped)
        return Contents(_leaves(tree, path), {}, classes)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(f"{path} is no plain checkpoint: it is damaged or no PyTorch file") from exc
    except _DAMAGED as exc:
        raise CheckpointError(
            f"{path} is truncated or no PyTorch file; download or save it again{size_note(path)}"
        ) from exc


def _is_stored(path: Path) -> bool:
    """Whether the records lie in the file as they are in memory; packed ones cannot be mapped.

    Raises CheckpointError for records that would fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    size = sum(record.file_size for record in records)
    if size > _MAX_PACKED * path.stat().st_size:
        raise CheckpointError(
            f"{path} would take {size / 1e9:.1f} GB of memory, more than {_MAX_PACKED} times its size, as no "
            "weights do; do not use it"
        )
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


@contextlib.contextmanager
def _named(path: Path, avoid: str = "?") -> Iterator[str]:
    """A name of the file that is UTF-8, as torch and safetensors need it, and does not end with `avoid`."""
    try:
        str(path).encode()
        usable = path.suffix != avoid
    except UnicodeEncodeError:
        usable = False
    if usable:
        yield str(path)
    else:
        with path.open("rb") as file:
            yield f"/proc/self/fd/{file.fileno()}"


def _leaves(tree: Any, path: Path) -> dict[str, Leaf]:
    """Each tensor in dictionaries, lists and modules, by its full name.

    Raises CheckpointError for more than any checkpoint has: a list may hold another one many times.
    """
    members = itertools.count()
    leaves = list(itertools.islice(_flat(tree, members), _MAX_LEAVES))
    if len(leaves) == _MAX_LEAVES or next(members) > _MAX_MEMBERS:
        raise CheckpointError(f"{path} has more lists or tensors in it than any training; {SAVE_PLAINLY}")
    return dict(leaves)


def _flat(
    tree: Any, members: Iterator[int], name: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Leaf]]:
    """As `_leaves`; `members` counts what was looked at, and ends it after _MAX_MEMBERS."""
    if id(tree) in above:  # an object that holds itself
        return
    if isinstance(tree, Tensor):
        yield name, tree
        return
    inner = tree.members() if isinstance(tree, Placeholder) else tree
    if isinstance(inner, (list, tuple)):
        inner = dict(enumerate(inner))
    if isinstance(inner, Mapping) and inner:
        for key, value in inner.items():
            if next(members) > _MAX_MEMBERS:
                return
            if isinstance(value, (Tensor, Mapping, list, tuple)):
                word = str(key) if isinstance(key, (str, int)) else brief(key)
                whole = f"{name}.{word}" if name else word
                yield from _flat(value, members, whole[:_MAX_NAME], (*above, id(tree)))
    elif isinstance(tree, Placeholder) and not tree.is_module:
        yield name, tree
