"""The live preview: a page, and a documented WebSocket, on which one watches a running loop and steers it."""

from runtime.preview.server import PreviewOptions, introduction, preview

__all__ = ["PreviewOptions", "introduction", "preview"]
