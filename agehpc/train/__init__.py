"""Training under DeepSpeed: engines, loop, checkpoints."""
