"""What a bundle's masks are worth, measured on pictures whose instances are known.

Pictures are read by `training.data` (no torch), and the model runs exactly as at the edge (`runtime`).
"""
