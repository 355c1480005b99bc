"""A byte language model in a bare PyTorch loop, with overnight's parts: no trainer, no command line.

python examples/byte_lm_loop.py FILE [--steps 200]
"""

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from overnight.models.byte_lm import ByteLM
from overnight.schedule import Progress, linear


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    lanes, length = 16, 64

    data = torch.from_numpy(np.fromfile(options.file, dtype=np.uint8))
    rows = data[: len(data) // lanes * lanes].view(lanes, -1)  # every lane is one contiguous run of bytes
    model = ByteLM(hidden_size=256, init="orthogonal", forget_bias=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99))
    schedule = partial(linear, warmup_samples=20 * lanes)
    carry = model.initial_carry(lanes)
    for step in range(options.steps):
        start = step * length % (rows.shape[1] - length)
        window = rows[:, start : start + length + 1].t().long()
        factor = schedule(Progress(step * lanes, lanes, options.steps * lanes))
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * factor
        logits, carry = model(window[:-1], {name: state.detach() for name, state in carry.items()})
        loss = F.cross_entropy(logits.flatten(0, 1), window[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  {loss.item() / math.log(2):.3f} bits per byte")


if __name__ == "__main__":
    main()
