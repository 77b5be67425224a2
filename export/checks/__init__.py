"""Checks of an export: parity with PyTorch, rounding to a lower precision, memory."""
