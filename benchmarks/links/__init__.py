"""Frames a second and latency that a line between edge and sites allows, of bundles that send differently.

    python -m benchmarks.links --bundle today=bundles/rgb --bundle thin=bundles/dct --out links.json

`line` is one direction of a home line, and `shaper` puts all sites behind such a line.
"""
