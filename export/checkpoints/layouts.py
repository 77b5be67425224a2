"""The one SAM among a file's tensors, whatever it is wrapped in, under segment-anything's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from export.checkpoints import transformers_names
from export.checkpoints.files import Contents, Leaf
from export.checkpoints.foreign import no_sam, refuse_changes, refuse_networks
from stages.errors import CheckpointError

SAM_PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
_PARTS = {*SAM_PARTS, *transformers_names.PARTS}
# What DDP, torch.compile, activation checkpointing and FSDP put before the names inside what they wrap.
_WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
_OF_TRAINING = re.compile(
    r"(?i)(^|[._])(optim(i[sz]er)?s?\d*|(lr_)?schedulers?|(grad_)?scaler|grads?|momentum)([._]|$)"
)
_SECOND = re.compile(r"(?i)(^|[._])(ema|teacher|average|averaged|swa|target|old|best|frozen|ref|momentum)")


@dataclass
class Found:
    """A SAM, whole or in part: `state` by segment-anything's names, without the `prefix` it lies under.

    `beside` are names of tensors under the same prefix that belong to none of SAM's parts.
    """

    prefix: str
    state: dict[str, Leaf] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts of SAM that are not here."""
        here = {name.partition(".")[0] for name in self.state}
        return tuple(part for part in SAM_PARTS if part not in here)


def find_sam(contents: Contents, path: Path, say: Callable[[str], None]) -> Found:
    """The SAM in a file, MobileSAM included; `say` is told which one of several, and what was left out.

    Raises CheckpointError where there is none, or no way to choose.
    """
    found = _found(contents.leaves)
    if not found:
        names = [name for name, leaf in contents.leaves.items() if isinstance(leaf, Tensor)]
        refuse_networks(names, path)
        refuse_changes(names, path)
        raise no_sam(names, contents.classes, path)
    whole = [each for each in found if not each.missing]
    chosen = _chosen(whole, path, say) if whole else max(found, key=lambda each: len(each.state))
    if chosen.missing:  # what the file is may show in other tensors than these
        refuse_networks([name for name in contents.leaves if not _OF_TRAINING.search(name)], path)
    return chosen


def _found(leaves: Mapping[str, Leaf]) -> list[Found]:
    """Every SAM or piece of one, by what stands before its names."""
    found: dict[str, Found] = {}
    others: list[tuple[str, Tensor]] = []
    for name, leaf in leaves.items():
        words = name.split(".")
        start = next((number for number, word in enumerate(words) if word in _PARTS), None)
        if start is None:
            others += [(name, leaf)] if isinstance(leaf, Tensor) else []
        elif not _OF_TRAINING.search(prefix := ".".join(words[:start])):
            own = ".".join(word for word in words[start:] if word not in _WRAPPERS)
            found.setdefault(prefix, Found(prefix)).state[own] = leaf
    for each in found.values():
        if any(name.startswith(transformers_names.PARTS) for name in each.state):
            each.state = {transformers_names.own_name(name): leaf for name, leaf in each.state.items()}
        start_of_name = f"{each.prefix}." if each.prefix else ""
        each.beside = {
            name[len(start_of_name) :]: leaf
            for name, leaf in others
            if name.startswith(start_of_name) and not _OF_TRAINING.search(name)
        }
    return list(found.values())


def _chosen(whole: Sequence[Found], path: Path, say: Callable[[str], None]) -> Found:
    """The only one, or the only one that no average or teacher is."""
    first = [each for each in whole if not _SECOND.search(each.prefix)]
    chosen = whole if len(whole) == 1 else first
    if len(chosen) != 1:
        names = ", ".join(repr(each.prefix) for each in whole)
        raise CheckpointError(
            f"{path} holds several SAMs, under {names}; save the one you mean alone: "
            "torch.save(checkpoint[NAME], FILE)"
        )
    if len(whole) > 1:
        rest = ", ".join(repr(each.prefix) for each in whole if each is not chosen[0])
        say(f"{path} holds several SAMs: the one under {chosen[0].prefix!r} is taken, not {rest}")
    return chosen[0]
