"""Torchvision as other packages import it, which need its transforms alone.

Its compiled operators need the very torch build that they were compiled for. Where they do not load, the two
schemas that torchvision looks for are declared here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache  # the declarations live as long as what is returned
def make_importable() -> Any:
    """Call it before such a package is imported. Nothing is changed where torchvision is not installed."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    except RuntimeError:  # "operator torchvision::nms does not exist"
        pass
    else:
        return None
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
