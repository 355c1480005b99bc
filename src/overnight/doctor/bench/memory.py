"""How much memory training a byte model takes, before it is taken."""

import torch

from overnight.doctor.machine import control_groups, usable_memory
from overnight.models.byte_lm import BYTES
from overnight.train.precision import Precision
from overnight.train.run import Run

# Weights, gradients and two moments in float32, and the weights normalised and cast. The activations of the fast path
# were measured on two CPU cores at 512 to 2048 units: with these the sum is within a tenth.
BYTES_A_PARAMETER = 24
BYTES_A_UNIT = {True: 112, False: 52}  # float32, two-byte formats; for every byte read
BYTES_OF_LOGITS = 16 * BYTES
BYTES_OF_TORCH = 200_000_000


def needed_bytes(run: Run, precision: Precision) -> tuple[int, int]:
    """(parameters, bytes of memory) of training a run of the byte model with Adam on one device, about."""
    settings = run.model.keywords
    hidden, embedding = settings["hidden_size"], settings["embedding_size"]
    parameters = parameter_count(hidden, embedding)
    lanes = run.micro_batch_size or run.global_batch_size
    read = lanes * run.data.keywords["length"]
    kept = read * (hidden * BYTES_A_UNIT[precision.dtype is None] + BYTES_OF_LOGITS)
    return parameters, BYTES_OF_TORCH + BYTES_A_PARAMETER * parameters + kept


def parameter_count(hidden_size: int, embedding_size: int) -> int:
    """Of a ``ByteLM`` of one layer, without making one.

    >>> parameter_count(4096, 64)  # the paper's
    86319360
    """
    cell = 5 * hidden_size * (embedding_size + hidden_size) + 4 * hidden_size
    gains = 10 * hidden_size  # of weight normalisation
    return BYTES * embedding_size + cell + gains + (hidden_size + 1) * BYTES


def available_bytes(device: torch.device) -> int | None:
    """What can be used on a device now; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return usable_memory(control_groups("memory"))[1]
