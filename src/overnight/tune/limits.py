"""The largest batch that a run's data can give."""

from overnight.errors import UserError
from overnight.train.build import construct
from overnight.train.run import Run

MOST = 2**24


def largest_data_batch(run: Run, most: int = MOST) -> int:
    """By trying: ``most``; if the data refuse it, doubled until they do, and then closed in on.

    Args:
        run: whose data; they are opened at its own batch first.
        most: at which to stop.

    Raises:
        UserError: if they refuse the run's own batch.
    """
    fits, refused = run.global_batch_size, None
    construct("data", run.data, lanes=fits, seed=run.seed)
    if most <= fits or gives(run, most):
        return most
    while refused is None and fits < most:
        larger = min(2 * fits, most)
        fits, refused = (larger, None) if gives(run, larger) else (fits, larger)
    while refused is not None and refused - fits > 1:
        middle = (fits + refused) // 2
        fits, refused = (middle, refused) if gives(run, middle) else (fits, middle)
    return fits


def gives(run: Run, batch: int) -> bool:
    """Whether the run's data can be read in batches of this size."""
    try:
        construct("data", run.data, lanes=batch, seed=run.seed)
    except UserError:
        return False
    return True
