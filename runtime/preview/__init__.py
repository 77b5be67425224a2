"""The live preview: a page and a documented WebSocket for viewers to watch and steer a running pipeline."""

from runtime.preview.server import PreviewOptions, introduction, preview, preview_identity

__all__ = ["PreviewOptions", "introduction", "preview", "preview_identity"]
