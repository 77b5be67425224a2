"""From a source to the canvas: pictures, videos, cameras."""
