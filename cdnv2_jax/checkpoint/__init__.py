"""Our own checkpoints, on Orbax."""
