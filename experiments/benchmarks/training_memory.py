"""Memory of fine-tuning: how much a step holds, by what is trained.

    python experiments/benchmarks/training_memory.py [--batch 8]

Networks at 224 pixels, all in float32: MobileNetV2, and the largest networks of once-for-all's MobileNetV3 and
ProxylessNAS spaces. Methods are those of `nas finetune`: all weights; the head alone; biases and the head; these and
lite residuals (TinyTL, NeurIPS 2020, arXiv:2007.11622). Memory is that of weights, activations that autograd keeps,
gradients and the state of AdamW; it is counted on tensors without values, and for MobileNetV2 measured as well.

Figures: MB in all, and how many times less than for all weights; the largest relative difference of counted from
measured activations.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import common

from nas.run.retraining import tuned_by
from nas.run.settings import METHODS_OF_TUNING
from nas.supernet import Supernet, TrainingSettings
from nas.supernet.memory import predicted_memory, training_memory
from search_spaces import Architecture
from search_spaces.loading import load_space

RESULTS = common.RESULTS / "training_memory.json"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for name, architecture in networks().items():
        for method in METHODS_OF_TUNING:
            space, trained = tuned_by(method, architecture)
            settings = TrainingSettings(batch_size=arguments.batch, trained=trained)
            memory = predicted_memory(space, settings)
            row = {"network": name, "method": method, **dataclasses.asdict(memory), "macs": space.network.macs}
            if name == "mobilenet_v2":
                supernet = Supernet(space)
                if trained:
                    supernet.train_only(trained)
                row["measured_activations"] = training_memory(supernet, space.network, settings).activations
            rows.append(row)
            figures[f"{name}_{method}_mb"] = memory.total / 1e6
            whole = figures[f"{name}_all_mb"]
            figures[f"{name}_{method}_times_less"] = whole * 1e6 / memory.total
            print(
                {key: f"{value / 1e6:.2f}" if isinstance(value, int) else value for key, value in row.items()},
                flush=True,
            )
    measured = [row for row in rows if "measured_activations" in row]
    errors = [abs(row["activations"] / row["measured_activations"] - 1) for row in measured]
    figures["largest_error"] = max(errors)
    conditions = common.conditions("torch", batch=arguments.batch, pixels=224)
    common.write(RESULTS, {"conditions": conditions, "figures": figures, "rows": rows})
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def networks() -> dict[str, Architecture]:
    """Networks at 224 pixels."""
    return {
        "mobilenet_v2": load_space("mobilenet_v2").member("mobilenet_v2"),
        "ofa_mobilenet_v3_largest": load_space("ofa_mobilenet_v3", resolutions=[224]).biggest,
        "ofa_proxylessnas_largest": load_space("ofa_proxylessnas", resolutions=[224]).biggest,
    }


if __name__ == "__main__":
    main()
