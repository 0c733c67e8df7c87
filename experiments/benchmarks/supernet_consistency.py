"""Is a network in the supernet the one that is extracted, counted and exported? Over random networks of every space.

    OMP_NUM_THREADS=1 python experiments/benchmarks/supernet_consistency.py [--networks 200] [--spaces a,b]

For each space under search_spaces/space, at its smallest resolution: the largest difference between the outputs of a
subnet in the supernet and of the network extracted from it, relative to the largest output where that is above 1, in
training mode (statistics of the batch, as after recalibration); how many are equal to the bit; the share of the
supernet's parameter tensors that some network gives a gradient; and whether the multiply-accumulates that the layers
count are those of torch's flop counter, for every layer of these networks. Weights are random.

The last line has the worst over all spaces. Goals: difference <= 1e-5, gradient 1, MACs equal 1.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import common
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.supernet import Supernet
from search_spaces import Architecture, Layer, SearchSpace
from search_spaces.loading import load_space
from search_spaces.torch_program import StaticLayer

RESULTS = common.RESULTS / "supernet_consistency.json"
BATCH = 2
LAYERS = 400
"""Layers of a space, at most, whose multiply-accumulates are counted by torch."""


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--spaces", help="names, separated by commas (default: all)")
    arguments = parser.parse_args()
    folder = common.ROOT / "search_spaces" / "space"
    names = arguments.spaces.split(",") if arguments.spaces else sorted(path.stem for path in folder.glob("*.yaml"))
    rows: dict[str, Any] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for name in names:
        rows[name] = {**row(load_space(name), arguments.networks), "conditions": common.conditions("torch", "numpy")}
        shown = {key: value for key, value in rows[name].items() if key != "conditions"}
        print(f"{name:26} " + " ".join(f"{key}={value:.4g}" for key, value in shown.items()), flush=True)
        common.write(RESULTS, {"figures": figures(rows), "rows": rows})
    print(" ".join(f"{key}={value:.4g}" for key, value in figures(rows).items()))


def figures(rows: dict[str, Any]) -> dict[str, float]:
    """The worst over the spaces."""
    return {
        "spaces": len(rows),
        "networks": min(one["networks"] for one in rows.values()),
        "difference": max(one["difference"] for one in rows.values()),
        "with_gradient": min(one["with_gradient"] for one in rows.values()),
        "macs_equal": min(one["macs_equal"] for one in rows.values()),
        "bit_equal": min(one["bit_equal"] for one in rows.values()),
    }


def row(space: SearchSpace, networks: int) -> dict[str, float]:
    """Figures of one space."""
    started = time.perf_counter()
    resolution = next((choice for choice in space.choices if choice.name == "resolution"), None)
    if resolution is not None:
        space = space.restricted({"resolution": resolution.values[0]})
    torch.manual_seed(0)
    supernet = Supernet(space).train()
    genes = space.sample(networks, np.random.default_rng(0))
    everything = {name for name, _ in supernet.named_parameters()}
    touched: set[str] = set()
    differences, layers = [], dict[Layer, None]()
    for number, genes_of_one in enumerate(genes):
        architecture = Architecture(space, genes_of_one)
        network = supernet.lower(architecture)
        layers.update(dict.fromkeys(network.values()))
        (shape,) = network.inputs.values()
        x = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(number))
        extracted = supernet.extract(architecture)
        with torch.set_grad_enabled(touched < everything):  # the backward pass until every weight had its gradient
            outputs = by_name(supernet(x, architecture))
        with torch.no_grad():
            others = by_name(extracted(x))
        differences.append(max(apart(outputs[name].detach(), others[name]) for name in outputs))
        if touched < everything:
            supernet.zero_grad()
            torch.stack([y.square().sum() for y in outputs.values()]).sum().backward()
            touched |= {name for name, p in supernet.named_parameters() if p.grad is not None and bool(p.grad.any())}
    some = list(layers)[:: max(1, len(layers) // LAYERS)]
    return {
        "networks": len(genes),
        "difference": max(differences),
        "bit_equal": float(np.mean([difference == 0 for difference in differences])),
        "with_gradient": len(touched) / len(everything),
        "layers": len(some),
        "macs_equal": float(np.mean([macs_of_torch(layer) == layer.macs for layer in some])),
        "seconds": round(time.perf_counter() - started, 1),
    }


def by_name(outputs: Any) -> dict[str, torch.Tensor]:
    """Outputs by name, of networks with one and with several."""
    return {"": outputs} if isinstance(outputs, torch.Tensor) else dict(outputs)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two tensors, relative to the largest entry where that is above 1."""
    return float((one - other).abs().max()) / max(1.0, float(one.abs().max()))


def macs_of_torch(layer: Layer) -> int:
    """Half the floating point operations that torch counts in the deployed form of a layer."""
    with torch.device("meta"):
        module = StaticLayer(layer.program.in_form("deployed")).eval()
        inputs = [torch.zeros(1, *shape) for shape in layer.input_shapes]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(*inputs)
    return int(counter.get_total_flops()) // 2


if __name__ == "__main__":
    main()
