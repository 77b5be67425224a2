"""What a stage is, how a bundle is stored, how an engine runs and what goes over the wire.

Imported by every other package and importing none of them; needs numpy and, to run engines, onnxruntime.
"""
