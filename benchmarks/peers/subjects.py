"""The peers: each makes an image embedding of the picture, then the mask of a box.

torch is imported by those that need it alone, so that the memory of an edge is that of an edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import choose_mask, decoder_inputs
from runtime.objects.prompts import Prompt
from stages.allocator import give_memory_back
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.errors import InputError
from stages.geometry import GEOMETRIES
from stages.tensors import Array, Pixels

BOX = (300.0, 120.0, 900.0, 640.0)
CPU = "onnxruntime-cpu"


@dataclass(frozen=True)
class Settings:
    """What a peer is opened with: a picture, RGB uint8 [720, 1280, 3], and the bundle of `model`."""

    picture: Pixels
    model: str
    bundle: Path
    mobile_sam: Path
    threads: int


class Peer(Protocol):
    """`about` names what computes. `encode` keeps the image embedding for `mask`, bool [720, 1280]."""

    about: str

    def encode(self) -> None: ...

    def mask(self) -> npt.NDArray[np.bool_]: ...


class OnnxPeer:
    """Stages of the bundle in onnxruntime: the decoder, and what `names` says comes before it."""

    def __init__(self, settings: Settings, names: tuple[str, ...]) -> None:
        self._bundle = Bundle.load(settings.bundle)
        self._engines = {
            name: make_engine(self._bundle, name, CPU, settings.threads) for name in (*names, "decoder")
        }
        for engine in self._engines.values():
            engine.open()
        self.about = self._engines["decoder"].backend
        self._picture = settings.picture
        self._embeddings = self._bundle.padding_embeddings()
        self._canvas: Canvas | None = None
        self._image: Array | None = None

    def encode(self) -> None:
        self._canvas = canvas = make_canvas(self._picture, self._bundle.geometry)
        if "whole" in self._engines:
            outputs = self._engines["whole"].infer(canvas.whole_inputs(self._bundle))
        else:
            if "window" in self._engines:
                self._run_windows(self._engines["window"], canvas)
            else:
                canvas.window_inputs(canvas.windows, self._bundle)  # what would be sent
            outputs = self._engines["global"].infer({"embedding": self._embeddings})
        self._image = outputs["image_embedding"]

    def _run_windows(self, engine: Engine, canvas: Canvas) -> None:
        """As many a call as an edge gives the engine; windows without picture are known."""
        windows, size = canvas.windows, engine.preferred_batch
        for start in range(0, len(windows), size):
            batch = windows[start : start + size]
            outputs = engine.infer(canvas.window_inputs(batch, self._bundle), ("embedding",))
            self._embeddings[list(batch)] = outputs["embedding"]

    def mask(self) -> npt.NDArray[np.bool_]:
        if self._canvas is None or self._image is None:
            raise RuntimeError("a mask needs an image embedding: call encode first")
        prompt = Prompt("object", BOX)
        outputs = self._engines["decoder"].infer(decoder_inputs(self._image, self._canvas, [prompt]))
        best = choose_mask(prompt, outputs["iou"][0])
        return self._canvas.to_frame_mask(outputs["low_res_masks"][0, best])


class TorchPeer:
    """segment_anything's own predictor. `compiled` compiles the image encoder."""

    def __init__(self, sam: Any, settings: Settings, compiled: bool = False) -> None:
        import torch

        from export.sam import SamPredictor

        torch.set_num_threads(settings.threads)
        if compiled:
            sam.image_encoder = torch.compile(sam.image_encoder)
        self.about = f"PyTorch {torch.__version__} on CPU, segment_anything {version('segment-anything')}"
        self._predictor = SamPredictor(sam)
        self._picture = settings.picture

    def encode(self) -> None:
        self._predictor.set_image(self._picture)

    def mask(self) -> npt.NDArray[np.bool_]:
        masks, _, _ = self._predictor.predict(box=np.array(BOX), multimask_output=False)
        found: npt.NDArray[np.bool_] = masks[0]
        return found


def _random_sam(settings: Settings) -> Any:
    from export.sam import build_sam, randomise

    sam = build_sam(GEOMETRIES[settings.model])
    randomise(sam)
    return sam.eval()


def _mobile_sam(settings: Settings) -> Any:
    """SAM's own predictor runs MobileSAM too: it differs in the image encoder alone."""
    from export.sam import build_sam
    from training.teachers import load_teacher

    if not settings.mobile_sam.exists():
        raise InputError(f"{settings.mobile_sam} is not there; make build/mobile_sam.pt brings one")
    teacher, geometry = load_teacher(settings.mobile_sam), GEOMETRIES["vit_b"]
    sam: Any = build_sam(geometry)
    sam.image_encoder = teacher.encoder.eval()
    sam.image_encoder.img_size = geometry.image_size
    sam.load_state_dict(dict(teacher.shared), strict=False)
    return sam.eval()


PEERS: dict[str, Callable[[Settings], Peer]] = {
    "eager": lambda settings: TorchPeer(_random_sam(settings), settings),
    "compiled": lambda settings: TorchPeer(_random_sam(settings), settings, compiled=True),
    "whole": lambda settings: OnnxPeer(settings, ("whole",)),
    "split": lambda settings: OnnxPeer(settings, ("window", "global")),
    "edge": lambda settings: OnnxPeer(settings, ("global",)),
    "mobile_sam": lambda settings: TorchPeer(_mobile_sam(settings), settings),
}


def open_peer(name: str, settings: Settings) -> Peer:
    """A peer, ready to run. Raises whatever its library does where it does not work here."""
    if name in ("split", "edge"):
        import runtime.session  # noqa: F401 - what an edge has loaded

        give_memory_back()  # as `pedsam run` does; torch, which allocates anew all the time, would be slow
    return PEERS[name](settings)
