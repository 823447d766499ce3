"""Pruning and condensing of networks with learned connections."""
