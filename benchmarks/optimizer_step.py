"""Time of an optimizer's step alone, against torch's fused AdamW and SGD, in one process.

    python benchmarks/optimizer_step.py [--shapes bert-base resnet-50] [--device cpu] [--repeats 9] [--out FILE.json]

Peers are taken along where they are installed: pip install pytorch_optimizer torch_optimizer. Every parameter has the
same settings (weight decay 0.01, all of them adapted), as the peers have no other way. Rounds go through all optimizers
in turn; medians, ratios to torch's fused AdamW or SGD of the same run. The bound is the bytes that must move through
memory, over the bandwidth that torch's fused kernel of the same run reached: w, g, m, v are read and m, v written, and
after the norms w, m, v (or w, u) are read and w written: 10 streams against AdamW's 7; for LARS 7 against SGD's 5.
Norms of a bucket that stays in the cache cost less, so the bound can be beaten where tensors are small.
"""

import argparse
import importlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overnight.optim import LAMB, LARS

AdamW, SGD = torch.optim.AdamW, torch.optim.SGD
ADAM: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
MOMENTUM: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.01}
STREAMS = {"adam": 7, "sgd": 5, "lamb": 10, "lars": 7}


def bert_base() -> list[tuple[int, ...]]:
    """199 tensors, 109.5 million numbers."""
    layer = [(768, 768), (768,)] * 4 + [(768,)] * 2 + [(3072, 768), (3072,), (768, 3072), (768,)] + [(768,)] * 2
    return [(30522, 768), (512, 768), (2, 768), (768,), (768,), *layer * 12, (768, 768), (768,)]


def resnet_50() -> list[tuple[int, ...]]:
    """161 tensors, 25.6 million numbers."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for blocks, inner in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            for convolution in ((inner, width, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)):
                shapes += [convolution, (convolution[0],), (convolution[0],)]
            if block == 0:
                shapes += [(4 * inner, width, 1, 1), (4 * inner,), (4 * inner,)]
            width = 4 * inner
    return [*shapes, (1000, 2048), (1000,)]


SHAPES = {"bert-base": bert_base, "resnet-50": resnet_50}


def contestants(device: str) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Name → (family, constructor); the first of a family is its reference."""
    found: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "torch AdamW(fused=True)": ("adam", lambda p: AdamW(p, fused=True, **ADAM)),
        "LAMB": ("lamb", lambda p: LAMB(p, **ADAM)),
        "LAMB(foreach=True)": ("lamb", lambda p: LAMB(p, foreach=True, **ADAM)),
        "torch SGD(fused=True)": ("sgd", lambda p: SGD(p, fused=True, **MOMENTUM)),
        "LARS": ("lars", lambda p: LARS(p, **MOMENTUM)),
        "LARS(foreach=True)": ("lars", lambda p: LARS(p, foreach=True, **MOMENTUM)),
    }
    if device != "cpu":
        found["LAMB(fused=True)"] = ("lamb", lambda p: LAMB(p, fused=True, **ADAM))
        found["LARS(fused=True)"] = ("lars", lambda p: LARS(p, fused=True, **MOMENTUM))
    for module in ("pytorch_optimizer", "torch_optimizer"):
        try:
            peer = importlib.import_module(module)
        except ImportError:
            continue
        adam = {name: value for name, value in ADAM.items() if name != "eps" or module != "pytorch_optimizer"}
        found[f"{module} Lamb"] = ("lamb", lambda p, peer=peer, adam=adam: peer.Lamb(p, **adam))  # type: ignore[misc]
        found[f"{module} LARS"] = ("lars", lambda p, peer=peer: peer.LARS(p, **MOMENTUM))  # type: ignore[misc]
    return found


def measure(shapes: list[tuple[int, ...]], device: str, repeats: int) -> dict[str, Any]:
    """Seconds a step of each contestant, and what they mean."""
    torch.manual_seed(0)

    def parameters() -> list[Tensor]:
        made = [nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes]
        for p in made:
            p.grad = torch.randn_like(p) * 0.01
        return made

    shared = parameters()  # one set for all: six copies of everything would not fit on a laptop
    optimizers = {name: (family, make(shared)) for name, (family, make) in contestants(device).items()}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(repeats + 2):  # two to warm up
        for name, (_, optimizer) in optimizers.items():
            _wait(device)
            start = time.perf_counter()
            optimizer.step()
            _wait(device)
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in times.items()}
    numbers = sum(p.numel() for p in shared)
    rows = []
    for name, (family, _) in optimizers.items():
        reference_name = "torch AdamW(fused=True)" if family in ("adam", "lamb") else "torch SGD(fused=True)"
        reference = medians[reference_name]
        streams = STREAMS["adam" if family in ("adam", "lamb") else "sgd"]
        rows.append(
            {
                "optimizer": name,
                "ms": round(medians[name] * 1e3, 2),
                "least_ms": round(min(times[name]) * 1e3, 2),
                "ratio": round(medians[name] / reference, 2),
                "bound_ms": round(reference * STREAMS[family] / streams * 1e3, 2),
                "gigabytes": round(STREAMS[family] * 4 * numbers / 1e9, 2),
            }
        )
    return {"parameters": numbers, "tensors": len(shapes), "rows": rows}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }
    for shapes in options.shapes:
        found[shapes] = measure(SHAPES[shapes](), options.device, options.repeats)
        print(f"{shapes}: {found[shapes]['parameters']:,} numbers in {found[shapes]['tensors']} tensors")
        print(f"{'optimizer':28} {'ms':>8} {'least':>8} {'ratio':>6} {'bound ms':>9} {'GB':>6}")
        for row in found[shapes]["rows"]:
            print(f"{row['optimizer']:28} {row['ms']:8.1f} {row['least_ms']:8.1f} {row['ratio']:6.2f} "
                  f"{row['bound_ms']:9.1f} {row['gigabytes']:6.2f}")  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
