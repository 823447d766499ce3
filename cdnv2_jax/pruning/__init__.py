"""Pruning and condensing: pure functions first, then whole networks."""
