"""From a tuned batch to k times as much without tuning: a grid of applications, arms, batches and seeds.

``python -m benchmarks.large_batch --help``. Tuning happens at the base batch only, with a declared budget, and is then
frozen in a JSON file; every cell of the grid is a run folder, so that the program may be killed and started again.
"""
