"""The window model behind the network: versions of it, and batches through its engine."""
