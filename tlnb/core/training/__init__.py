"""Training: the loop, cached or raw features, where a network is split, checkpoints, the record of a run."""
