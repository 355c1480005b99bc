"""Labelled images: their files → tensors in memory, and shuffled batches as a function of (seed, step, rank)."""
