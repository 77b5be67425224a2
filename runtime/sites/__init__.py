"""Windows to sites and embeddings back: who gets which window, how it travels, whatever fails on the way."""
