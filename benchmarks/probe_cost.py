"""What measuring costs while a model trains: the same steps looked at and not, in turns, by the process's CPU time.

    python benchmarks/probe_cost.py [--pairs 12] [--every 10] [--lanes 32] [--preset laptop]

Every ten steps are made twice from the same state, once with an observer and once without, in changing order. The
median of the ratios is the cost; with the observer taken away a step has one more comparison with None.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from overnight.recipes import find
from overnight.scaling.critical_batch import Fork
from overnight.train.build import build
from overnight.train.distributed import World
from overnight.train.host import keep_freed_memory
from overnight.train.step import Stepper
from overnight.tune.measurements import Measurements

STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--preset", default="laptop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    run = find("builtin")(preset=options.preset, steps=1000, batch_size=options.lanes)
    run = replace(run, micro_batch_size=options.lanes // options.micro_batches)
    world = World(0, 1, torch.device("cpu"))
    parts = build(run, world)
    stepper = Stepper(parts.task, parts.optimizer, world, parts.precision, run.max_norm)
    carry = parts.task.initial_carry(options.lanes)
    batches = [[parts.data.at(s, first, n) for first, n in parts.plan.lanes(0)] for s in range(STEPS)]

    def seconds(observed: bool) -> float:
        # its first step is a measured one; without it there are no hooks either
        measurements = Measurements(
            parts.task.model.named_parameters(),
            parts.optimizer,
            global_batch_size=options.lanes,
            max_norm=run.max_norm,
            every=options.every,
        )
        stepper.observer = measurements
        if not observed:
            measurements.close()
            stepper.observer = None
        began = time.process_time()
        for one in batches:
            stepper(one, carry)
        took = time.process_time() - began
        measurements.close()
        return took

    ratios: list[float] = []
    costs: dict[bool, list[float]] = {True: [], False: []}
    seconds(True)
    for pair in range(options.pairs):
        fork, order = Fork(parts.task, parts.optimizer), (True, False) if pair % 2 else (False, True)
        for observed in order:
            fork.restore()
            costs[observed].append(seconds(observed))
        ratios.append(costs[True][-1] / costs[False][-1])
    print(
        json.dumps(
            {
                "every": options.every,
                "lanes": options.lanes,
                "parameters": sum(p.numel() for p in parts.task.model.parameters()),
                "precision": parts.precision.name,
                "ms_a_step_off": 1e3 * statistics.median(costs[False]) / STEPS,
                "ms_a_step_on": 1e3 * statistics.median(costs[True]) / STEPS,
                "cost_percent": 100 * (statistics.median(ratios) - 1),
                "quartiles_percent": [100 * (q - 1) for q in statistics.quantiles(ratios, n=4)],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
