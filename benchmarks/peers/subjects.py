"""The peers: each makes an image embedding of the picture, then the mask of a box.

torch is imported by those that need it alone, so that the memory of an edge is that of an edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.bundles import MOBILE_SAM_GEOMETRY, mobile_sam, mobile_sam_graphs
from runtime.frames.canvas import Canvas, make_canvas
from runtime.objects.decode import choose_mask, decoder_inputs
from runtime.objects.prompts import Prompt
from stages.allocator import give_memory_back
from stages.bundle import Bundle
from stages.engines.backends import make_engine
from stages.engines.engine import Engine
from stages.engines.onnxruntime_engine import library, open_session
from stages.geometry import GEOMETRIES, Geometry
from stages.tensors import Array, Pixels
from stages.tile_code import RGB
from stages.tile_inputs import coded_canvas

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


class CanvasPeer(ABC):
    """What works on pedsam's canvas; SAM's predictor makes the same one."""

    about: str

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        self._picture, self._geometry = settings.picture, geometry
        self._canvas: Canvas | None = None
        self._image: Array | None = None

    @abstractmethod
    def _embed(self, canvas: Canvas) -> Array:
        """The image embedding."""

    @abstractmethod
    def _decode(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs of the decoder."""

    def encode(self) -> None:
        self._canvas = make_canvas(self._picture, self._geometry)
        self._image = self._embed(self._canvas)

    def mask(self) -> npt.NDArray[np.bool_]:
        if self._canvas is None or self._image is None:
            raise RuntimeError("a mask needs an image embedding: call encode first")
        prompt = Prompt("object", BOX)
        outputs = self._decode(decoder_inputs(self._image, self._canvas, [prompt]))
        best = choose_mask(prompt, outputs["iou"][0])
        return self._canvas.to_frame_mask(outputs["low_res_masks"][0, best])


class BundlePeer(CanvasPeer):
    """Stages of the bundle: the decoder, and what `names` says comes before it."""

    def __init__(self, settings: Settings, names: tuple[str, ...]) -> None:
        self._bundle = Bundle.load(settings.bundle)
        super().__init__(settings, self._bundle.geometry)
        self._engines = {
            name: make_engine(self._bundle, name, CPU, settings.threads) for name in (*names, "decoder")
        }
        for engine in self._engines.values():
            engine.open()
        self.about = self._engines["decoder"].backend
        self._embeddings = self._bundle.padding_embeddings()

    def _embed(self, canvas: Canvas) -> Array:
        if "whole" in self._engines:
            return self._engines["whole"].infer(canvas.whole_inputs(self._bundle))["image_embedding"]
        if "window" in self._engines:
            self._run_windows(self._engines["window"], canvas)
        else:
            canvas.window_inputs(canvas.windows, self._bundle)  # what would be sent
        return self._engines["global"].infer({"embedding": self._embeddings})["image_embedding"]

    def _run_windows(self, engine: Engine, canvas: Canvas) -> None:
        """As many a call as an edge gives the engine; windows without picture are known."""
        windows, size = canvas.windows, engine.preferred_batch
        for start in range(0, len(windows), size):
            batch = windows[start : start + size]
            outputs = engine.infer(canvas.window_inputs(batch, self._bundle), ("embedding",))
            self._embeddings[list(batch)] = outputs["embedding"]

    def _decode(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._engines["decoder"].infer(feeds)


class MobilePeer(CanvasPeer):
    """MobileSAM's encoder and decoder as graphs of the same form, in the same library."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, MOBILE_SAM_GEOMETRY)
        graphs = mobile_sam_graphs(settings.mobile_sam)
        self._encoder, self._decoder = (open_session(path, settings.threads) for path in graphs)
        self.about = f"onnxruntime {library().__version__} on CPU"

    def _embed(self, canvas: Canvas) -> Array:
        inputs = coded_canvas(RGB, canvas.geometry, canvas.pixels, canvas.extents)
        image: Array = self._encoder.run(["image_embedding"], inputs)[0]
        return image

    def _decode(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        names = ("low_res_masks", "iou")
        return dict(zip(names, self._decoder.run(names, dict(feeds)), strict=True))


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
    return mobile_sam(settings.mobile_sam)[0]


PEERS: dict[str, Callable[[Settings], Peer]] = {
    "eager": lambda settings: TorchPeer(_random_sam(settings), settings),
    "compiled": lambda settings: TorchPeer(_random_sam(settings), settings, compiled=True),
    "whole": lambda settings: BundlePeer(settings, ("whole",)),
    "split": lambda settings: BundlePeer(settings, ("window", "global")),
    "edge": lambda settings: BundlePeer(settings, ("global",)),
    "mobile_sam": lambda settings: TorchPeer(_mobile_sam(settings), settings),
    "mobile_sam_graph": MobilePeer,
}


def open_peer(name: str, settings: Settings) -> Peer:
    """A peer, ready to run. Raises whatever its library does where it does not work here."""
    if name in ("split", "edge"):
        import runtime.session  # noqa: F401 - what an edge has loaded

        give_memory_back()  # as `pedsam run` does; torch, which allocates anew all the time, would be slow
    return PEERS[name](settings)
