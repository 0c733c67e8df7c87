"""What elasticity costs: a training step of a subnet in the supernet against the same network as a static module.

    python experiments/benchmarks/elastic_step.py [--once-for-all PATH] [--subnets 12]

Forward, backward and an SGD step at batch 64 on one thread, MobileNetV3 (width 1.0) at 96 px, both channels-last, on
random subnets, taken in turn; the fastest of three rounds counts for each. PATH is a checkout of
mit-han-lab/once-for-all: with it, its own elastic network does the same steps on the same subnets in the same run. The
last line has the medians over the subnets: ``ratio``, elastic over static time (goal <= 1.05); ``speedup``, images per
second over once-for-all's elastic network (goal >= 1.5); ``ofa_ratio``, once-for-all's elastic over its own static one.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nas.supernet import Supernet
from search_spaces import Architecture, MobileNetV3

RESULTS = common.RESULTS / "elastic_step.json"
RESOLUTION, BATCH, ROUNDS = 96, 64, 3


def space_at(resolution: int) -> MobileNetV3:
    """The ImageNet space at one resolution."""
    settings = common.space_settings("ofa_mobilenet_v3")
    return MobileNetV3(**{**settings, "resolutions": [resolution]})


def stepper(forward: Callable[[], torch.Tensor], parameters: list[nn.Parameter], labels: torch.Tensor) -> Any:
    """A function that does one training step and gives its seconds."""
    optimiser = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)

    def step() -> float:
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(forward(), labels).backward()
        optimiser.step()
        return time.perf_counter() - start

    return step


def once_for_all(path: Path) -> nn.Module:
    """Its elastic network. Its data loaders, which need torchvision, are not loaded."""
    sys.path.insert(0, str(path))
    sys.modules["ofa.utils.my_dataloader"] = types.ModuleType("ofa.utils.my_dataloader")
    networks = importlib.import_module("ofa.imagenet_classification.elastic_nn.networks")
    network: nn.Module = networks.OFAMobileNetV3(
        dropout_rate=0, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    )
    dynamic = importlib.import_module("ofa.imagenet_classification.elastic_nn.modules.dynamic_op")
    dynamic.DynamicSeparableConv2d.KERNEL_TRANSFORM_MODE = 1
    return network


def activate(network: Any, architecture: Architecture) -> None:
    """Set once-for-all's active subnet; blocks that are not there take any value."""
    values, stages, blocks = architecture.values, range(1, 6), range(1, 5)
    network.set_active_subnet(
        ks=[values.get(f"kernel.{s}.{b}", 3) for s in stages for b in blocks],
        e=[values.get(f"expand.{s}.{b}", 3) for s in stages for b in blocks],
        d=[values[f"depth.{s}"] for s in stages],
    )


def measure(architecture: Architecture, supernet: Supernet, other: Any, rounds: int) -> dict[str, float]:
    """Fastest seconds of one step of each contestant."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION, generator=generator)
    labels = torch.randint(0, 1000, (BATCH,), generator=generator)
    last = images.contiguous(memory_format=torch.channels_last)
    static = supernet.extract(architecture).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = {
        "static": stepper(lambda: static(last), list(static.parameters()), labels),
        "elastic": stepper(lambda: supernet(last, architecture), list(supernet.parameters()), labels),
    }
    if other is not None:
        activate(other, architecture)
        theirs = copy.deepcopy(other.get_active_subnet(preserve_weight=True)).train()
        steps["ofa_static"] = stepper(lambda: theirs(images), list(theirs.parameters()), labels)
        steps["ofa_elastic"] = stepper(lambda: other(images), list(other.parameters()), labels)
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            best[name] = min(best[name], step())
    return best


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once-for-all", type=Path, help="checkout of mit-han-lab/once-for-all, to run beside")
    parser.add_argument("--subnets", type=int, default=12, help="number of random subnets (default 12)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"the fastest of so many counts (default {ROUNDS})")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = space_at(RESOLUTION)
    supernet = Supernet(space).train()
    other = once_for_all(arguments.once_for_all).train() if arguments.once_for_all else None
    rows = []
    for genes in space.sample(arguments.subnets, np.random.default_rng(0)):
        rows.append(measure(Architecture(space, genes), supernet, other, arguments.rounds))
        print(" ".join(f"{name}={seconds:.3f}s" for name, seconds in rows[-1].items()), flush=True)
    figures = {"ratio": statistics.median(row["elastic"] / row["static"] for row in rows)}
    if other is not None:
        figures["speedup"] = statistics.median(row["ofa_elastic"] / row["elastic"] for row in rows)
        figures["ofa_ratio"] = statistics.median(row["ofa_elastic"] / row["ofa_static"] for row in rows)
    conditions = common.conditions("torch", threads=1)
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
