"""State dict in, state dict out: names, shapes and rows of checkpoints. Torch only; no options, no models."""
