"""Frames a second and latency that a line between edge and sites allows, of bundles that send differently.

    python -m benchmarks.links --bundle today=bundles/rgb,fp16 --bundle thin=bundles/dct,int8 --out links.json

With a number of bytes behind the wire it also compares windows that share requests with those that do not:
`--records alone=mini,dct:10/3,64,int8,0 --records shared=mini,dct:10/3,64,int8,14000`.

`line` is one direction of a home line, and `shaper` puts all sites behind such a line.
"""
