"""What watches and steers a running pipeline: the interface, its figures, metrics, saved objects."""
