"""Frames a second and latency that a line between edge and sites allows, of bundles that send differently.

    python -m benchmarks.links --bundle today=bundles/rgb,fp16 --bundle thin=bundles/dct,int8 --out links.json

`line` is one direction of a home line, and `shaper` puts all sites behind such a line.
"""
