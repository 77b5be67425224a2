"""Releases of L4T, NVIDIA's Linux for Jetson, which JetPack each belongs to, and which the image serves.

A container uses the driver of the board it runs on, so an image serves a range of releases. Versions are
compared, never looked up in a list alone: lists rot, and a later patch is as good as the one before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class L4T:
    """A release, as 36.4.3; patch 0 is written too."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Base:
    """Base images for Dockerfile.jetson, and the releases they serve: every patch of `first` to `last`.

    `offered`: `flash` uses it. One that is not was prepared, and nobody has tried it.
    """

    jetpack: str
    first: tuple[int, int]
    last: tuple[int, int]
    image: str
    kernel: str
    offered: bool = True

    def serves(self, l4t: L4T) -> bool:
        """Whether boards of this release can run it."""
        return self.first <= (l4t.major, l4t.minor) <= self.last

    @property
    def releases(self) -> str:
        """What it serves, for a person."""
        first, last = (".".join(map(str, each)) for each in (self.first, self.last))
        return f"JetPack {self.jetpack} (L4T {first} to {last})"


BASES = (
    Base(
        "6.1 to 6.2.x",
        (36, 4),
        (36, 5),
        # The last of its line, and digest: anduril/jetpack-nixos, pkgs/tests/oci/container-r36.nix
        "nvcr.io/nvidia/l4t-jetpack:r36.4.0"
        "@sha256:34ccf0f3b63c6da9eee45f2e79de9bf7fdf3beda9abfd72bbf285ae9d40bb673",
        kernel="5.15",
    ),
    Base(
        "7.2",
        (39, 2),
        (39, 2),
        "nvcr.io/nvidia/cuda:13.3.1-tensorrt-devel-ubuntu24.04",
        kernel="6.8",
        offered=False,
    ),
)
OFFERED = tuple(base for base in BASES if base.offered)
# A patch of L4T in which CUDA cannot allocate about 1 GB (error 12), as many report; 36.4.4 and 36.5 can.
MEMORY_FAULT = (L4T(36, 4, 7),)

# The first release of each JetPack (rbonghi/jetson_stats: jtop/core/jetson_variables.py; 6.2.3 from
# NVIDIA-AI-IOT/live-vlm-webui#28). A later patch of the same minor version belongs to the last one before it.
_JETPACKS = {
    L4T(34, 1, 0): "5.0 DP",
    L4T(35, 1, 0): "5.0.2",
    L4T(35, 2, 1): "5.1",
    L4T(35, 3, 1): "5.1.1",
    L4T(35, 4, 1): "5.1.2",
    L4T(35, 5, 0): "5.1.3",
    L4T(35, 6, 0): "5.1.4",
    L4T(36, 2, 0): "6.0 DP",
    L4T(36, 3, 0): "6.0",
    L4T(36, 4, 0): "6.1",
    L4T(36, 4, 3): "6.2",
    L4T(36, 4, 4): "6.2.1",
    L4T(36, 5, 0): "6.2.2",
    L4T(36, 5, 2): "6.2.3",
    L4T(38, 2, 0): "7.0",
    L4T(38, 4, 0): "7.1",
    L4T(39, 2, 0): "7.2",
    L4T(39, 2, 1): "7.2.1",
}


def parse_l4t(release: str, core_version: str | None = None) -> L4T | None:
    """From /etc/nv_tegra_release, else the version of package nvidia-l4t-core. Its BOARD says nothing."""
    if found := re.search(
        r"^# R(\d{1,4}) \(release\), REVISION: (\d{1,4})\.(\d{1,4})", release, re.MULTILINE
    ):
        return L4T(*map(int, found.groups()))
    found = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", core_version or "")
    return L4T(*map(int, found.groups())) if found else None


def jetpack_of(l4t: L4T) -> str | None:
    """The JetPack of a release, as "6.2.1"; None when it is not known here."""
    known = [each for each in _JETPACKS if (each.major, each.minor) == (l4t.major, l4t.minor) and each <= l4t]
    return _JETPACKS[max(known)] if known else None


def name_of(l4t: L4T) -> str:
    """A release for a person, as "JetPack 6.2 (L4T 36.4.3)"."""
    jetpack = jetpack_of(l4t)
    return f"JetPack {jetpack} (L4T {l4t})" if jetpack else f"L4T {l4t}"


def base_for(l4t: L4T) -> Base | None:
    """The base that `flash` uses for a release; None when there is none.

    A minor version above the newest known one gets that one's base, as long as it is of the same major
    version: 36.5 went on running what was made for 36.4, and a refusal would only wait for someone to
    change a table. A check warns of it.
    """
    return next((base for base in OFFERED if base.serves(l4t) or is_newer(l4t, base)), None)


def is_newer(l4t: L4T, base: Base) -> bool:
    """Whether a release follows the newest known one of a base, in the same line."""
    return l4t.major == base.last[0] and (l4t.major, l4t.minor) > base.last


def refusal(l4t: L4T) -> str | None:
    """Why there is no base for a release, and what to do, in one sentence; None when there is one."""
    if base_for(l4t) is not None:
        return None
    served = " and ".join(base.releases for base in OFFERED)
    return f"the board runs {name_of(l4t)}, and the image is for {served}; {_way_out(l4t)}"


def _way_out(l4t: L4T) -> str:
    if any(base.serves(l4t) for base in BASES):
        return (
            "another base image for it is prepared, but nobody has tried it yet: put JetPack 6.2 on the board"
        )
    if l4t.major == OFFERED[0].first[0]:
        return "upgrade the board to JetPack 6.2 from NVIDIA's package source r36.4, or with SDK Manager"
    if l4t.major > OFFERED[-1].last[0]:
        return "a board of the Orin family can be set up with JetPack 6.2, by SDK Manager or an SD card image"
    return "set it up with JetPack 6.2, by SDK Manager or an SD card image (its firmware is updated first)"
