"""Detection's pure functions: usable without any of the models."""
