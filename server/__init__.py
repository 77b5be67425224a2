"""The window server of one site: Open Inference Protocol v2 over HTTP around the window stage."""
