"""Engines that run a stage: one interface, TensorRT and onnxruntime behind it, and their thread."""
