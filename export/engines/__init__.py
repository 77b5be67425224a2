"""TensorRT engines, built on the device that runs them. Needs no torch."""
