"""Which Jetson it is, by what its device tree says."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB = 1024**3

# Module part numbers (rbonghi/jetson_stats: jtop/core/jetson_variables.py): family, and memory in GB.
MODULES: dict[str, tuple[str, int | None]] = {
    "p3767-0000": ("Orin NX", 16),
    "p3767-0001": ("Orin NX", 8),
    "p3767-0003": ("Orin Nano", 8),
    "p3767-0004": ("Orin Nano", 4),
    "p3767-0005": ("Orin Nano", 8),
    "p3701-0000": ("AGX Orin", 32),
    "p3701-0004": ("AGX Orin", 32),
    "p3701-0005": ("AGX Orin", 64),
    "p3701-0008": ("AGX Orin", None),
    "p3834-0008": ("AGX Thor", 128),
}
# Vendors put their own names around these; Thor's module is also sold as T5000.
_FAMILIES = (
    ("orin nano", "Orin Nano"),
    ("orin nx", "Orin NX"),
    ("agx orin", "AGX Orin"),
    ("thor", "AGX Thor"),
)
_SIZES = (4, 8, 16, 32, 64, 128)
_CHIPS = ("tegra234", "tegra264", "tegra194", "tegra186", "tegra210")
ORIN = "tegra234"


@dataclass(frozen=True)
class Hardware:
    """A board. `model` is the device tree's own name, "" where there is none; `module` a part number as
    p3767-0005; `super_mode` says that its firmware allows the Super power modes."""

    model: str = ""
    chip: str | None = None
    family: str | None = None
    module: str | None = None
    memory_gb: int | None = None
    super_mode: bool = False

    @property
    def name(self) -> str:
        """Its name for a person, as "Jetson Orin Nano 8GB Super"."""
        if self.family is None:
            return self.model or "board without a name"
        size = f" {self.memory_gb}GB" if self.memory_gb else ""
        return f"Jetson {self.family}{size}{' Super' if self.super_mode else ''}"


def hardware(
    model: str, compatible: tuple[str, ...], chosen_ids: str, boot_control: str, total_bytes: int | None
) -> Hardware:
    """From /proc/device-tree/model, compatible and chosen/ids, /etc/nv_boot_control.conf, and the memory that
    Linux has, in bytes. AGX Orin 32GB and 64GB share a model string, and vendors change it."""
    module = _module(compatible, chosen_ids, boot_control)
    family, memory_gb = MODULES.get(module or "", (None, None))
    named = next((name for sign, name in _FAMILIES if sign in model.lower()), None)
    together = " ".join(compatible)
    return Hardware(
        model,
        next((chip for chip in _CHIPS if chip in together), None),
        family or named,
        module,
        memory_gb if total_bytes is None else _module_size(total_bytes),
        "-super" in together,
    )


def _module(compatible: tuple[str, ...], chosen_ids: str, boot_control: str) -> str | None:
    """The module's part number; a carrier has one too, which is not among MODULES."""
    spec = re.search(r"^TNSPEC (\d{4})-\w+-(\d{4})-", boot_control, re.MULTILINE)
    found = [
        *re.findall(r"p\d{4}-\d{4}", " ".join(compatible)),
        *(f"p{part}" for part in re.findall(r"\b(\d{4}-\d{4})-", chosen_ids)),
        *([f"p{spec[1]}-{spec[2]}"] if spec else []),
    ]
    return next((part for part in found if part in MODULES), None)


def _module_size(total_bytes: int) -> int:
    """The size a module is sold with, in GB: Linux has a little less."""
    return next((size for size in _SIZES if total_bytes <= size * GIB), _SIZES[-1])
