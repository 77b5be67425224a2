"""What is segmented: prompts, the decoder that answers them, and objects followed from frame to frame."""
