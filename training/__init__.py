"""Training and distillation: what makes weights. Needs torch; sites and edge devices do not install it."""
