"""Checkpoint -> reordered SAM -> ONNX stages in a bundle.

Needs torch; sites and edge devices do not install it.
"""
