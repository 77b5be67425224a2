"""What a stage is, how a bundle is stored, how an engine runs and what goes over the wire.

Every other package imports it; it imports none of them. Needs numpy and, to run engines, onnxruntime.
"""
