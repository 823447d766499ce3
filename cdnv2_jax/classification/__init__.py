"""Training and judging classifiers: what a run of `training/` is given to do."""
