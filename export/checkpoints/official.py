"""Where SAM's official weights are, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Download:
    """A file on its publisher's server."""

    address: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    @property
    def size(self) -> str:
        """For a person: 375 MB, 2.56 GB."""
        if self.size_bytes < 1e9:
            return f"{self.size_bytes / 1e6:.0f} MB"
        return f"{self.size_bytes / 1e9:.2f} GB"


_FOLDER = "https://dl.fbaipublicfiles.com/segment_anything"
DOWNLOADS = {
    "vit_b": Download(f"{_FOLDER}/sam_vit_b_01ec64.pth", 375_042_383),
    "vit_l": Download(f"{_FOLDER}/sam_vit_l_0b3195.pth", 1_249_524_607),
    "vit_h": Download(f"{_FOLDER}/sam_vit_h_4b8939.pth", 2_564_550_879),
}


def size_note(path: Path) -> str:
    """What the size of a damaged file says, where its name is that of an official one: " (it is ...)"."""
    for download in DOWNLOADS.values():
        if Path(download.name).stem in path.name and path.stat().st_size != download.size_bytes:
            return f" (it is {path.stat().st_size:,} bytes, the official file {download.size_bytes:,})"
    return ""
