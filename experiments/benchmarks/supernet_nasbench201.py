"""Ranking of the cells of NAS-Bench-201 by supernets: recipes side by side, against the true accuracies.

    OMP_NUM_THREADS=1 python experiments/benchmarks/supernet_nasbench201.py --data DATA [--recipes a,b] [--seeds 3]

NAS-Bench-201's space with fewer channels and cells per stage, on CIFAR-10 (the packed JPEGs of quality 75), scaled down
where `--size` says so. Each recipe trains as many networks on as many images: where a step trains several networks,
there are fewer epochs. Then `--cells` random cells, all different and with a path from input to output, are evaluated
through the supernet, and compared with their accuracy on CIFAR-10's test images after 200 epochs alone in full width.

Figures per recipe, mean and standard deviation over seeds: Kendall's tau over all these cells and over the better half
of them, the true accuracy of the cell that the supernet puts first, and seconds. Block-wise distillation ranks by the
losses of blocks (`nas.supernet.block_rating`), all others by accuracy on the validation images.

Rows are written as they come, and a row that an earlier run of the same settings has written is not made again. With
`--folder` trainings that were stopped go on.

Published figures (`PUBLISHED`) are of full width and all training images. The sandwich rule is left out: the cell of
each choice's last value is pooling alone, no biggest network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
from differentiable import cifar10
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nas.data import Data
from nas.supernet import Phase, SupernetAccuracy, TrainingSettings, train
from nas.supernet.augmentation import Affine
from nas.supernet.block_rating import beginning, ratings_of
from nas.supernet.few_shot import GradientMatching
from nas.supernet.losses import Blockwise, Labels
from nas.supernet.samplers import ConflictAware, Fair, PerformanceAware, SinglePath, SubnetAware
from nas.supernet.training import CHECKPOINT
from search_spaces import Genes, NasBench201
from search_spaces.nasbench201 import genes_of_string

RESULTS = common.RESULTS / "supernet_nasbench201.json"
TRUTH = "cifar10_test_200ep"
PUBLISHED = {"single_path": 0.48, "few_shot": 0.55}
"""Kendall's tau on CIFAR-10 that papers on few-shot search report, each in settings of its own."""

CONVOLUTIONS = {"edge*": ("nor_conv_3x3",)}
"""The cell that teaches block by block."""

Recipe = Callable[[TrainingSettings], TrainingSettings]


def changed(**changes: Any) -> Recipe:
    """The recipe that changes some settings."""
    return lambda settings: dataclasses.replace(settings, **changes)


RECIPES: Mapping[str, Recipe] = {
    "single_path": changed(),
    "single_path_of_5": changed(sampler=SinglePath(5)),
    "fairnas": changed(sampler=Fair(5)),
    "conflict_aware": changed(sampler=ConflictAware(1)),
    "performance_aware": changed(sampler=PerformanceAware(ConflictAware(1))),
    "subnet_aware": changed(sampler=SubnetAware(), schedule="power"),
    "subnet_aware_rate": changed(sampler=SubnetAware(separate=False), schedule="power"),
    "subnet_aware_momentum": changed(sampler=SubnetAware(steepest=1.0), schedule="power"),
    "few_shot": changed(phases=(Phase(), Phase(division=GradientMatching()))),
    "few_shot_of_4": changed(phases=(Phase(), *2 * [Phase(division=GradientMatching(), share=0.5)])),
    "blockwise": changed(
        phases=(Phase(choices=CONVOLUTIONS), Phase(loss=Blockwise(choices=CONVOLUTIONS), learning_rate=0.02))
    ),
}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/ and cifar10/")
    parser.add_argument("--recipes", default="", help=f"separated by commas, of {', '.join(RECIPES)}; default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60, help="of one network per step")
    parser.add_argument("--images", type=int, default=20_000, help="to train on; half as many to choose by")
    parser.add_argument("--size", type=int, default=16, help="pixels, a multiple of 4, at most 32")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells-per-stage", type=int, default=1)
    parser.add_argument("--cells", type=int, default=300, help="to rank")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--folder", type=Path, help="of the trainings, which are kept there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    wanted = [name for name in arguments.recipes.split(",") if name] or list(RECIPES)
    if unknown := sorted(set(wanted) - set(RECIPES)):
        parser.error(f"There are no recipes {unknown}, but {sorted(RECIPES)}.")
    names = ("epochs", "images", "size", "channels", "cells_per_stage", "cells", "batch_size", "learning_rate")
    asked = {name: getattr(arguments, name) for name in names}
    data = cifar10(arguments.data / "cifar10" / "cifar10_jpeg.npz", arguments.images, arguments.size)
    space = NasBench201(
        name="nasbench201_narrow",
        in_channels=3,
        classes=10,
        resolution=arguments.size,
        channels=arguments.channels,
        cells=arguments.cells_per_stage,
    )
    genes, truth = cells(space, arguments.data / "nasbench201" / "accuracy.csv", arguments.cells)
    rows: list[dict[str, Any]] = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    for seed in range(arguments.seeds):
        for name in wanted:
            known = {"recipe": name, "seed": seed, **asked}
            if any(known.items() <= row.items() for row in rows):
                continue
            base = TrainingSettings(
                epochs=arguments.epochs,
                sampler=SinglePath(),
                loss=Labels(),
                batch_size=arguments.batch_size,
                optimiser="sgd",
                learning_rate=arguments.learning_rate,
                weight_decay=5e-4,
                label_smoothing=0.0,
                clip_norm=5.0,
                augment=(Affine(shift=0.125, rotate=0, scale=0),),
                seed=seed,
                evaluate_every=0,
                device=arguments.device,
                threads=1 if arguments.device == "cpu" else None,
            )
            with tempfile.TemporaryDirectory() as spare:
                folder = (arguments.folder or Path(spare)) / f"{name}_{seed}"
                found = figures_of(space, data, equal_compute(RECIPES[name](base)), folder, genes, truth)
            conditions = common.conditions("torch", "numpy", device=arguments.device)
            rows.append({**known, **found, "conditions": conditions})
            print(
                f"{name:24} seed {seed} " + " ".join(f"{key}={value:.4g}" for key, value in found.items()), flush=True
            )
            common.write(arguments.output, {"published": PUBLISHED, "figures": summary(rows, asked), "rows": rows})
    print(" ".join(f"{name}={value:.3g}" for name, value in summary(rows, asked).items()))


def equal_compute(settings: TrainingSettings) -> TrainingSettings:
    """The settings with as many epochs as train the networks of single paths on as many images."""
    epochs = max(len(settings.phases), round(settings.epochs / settings.per_step), 1)
    return dataclasses.replace(settings, epochs=epochs)


def cells(space: NasBench201, path: Path, count: int) -> tuple[Genes, NDArray[np.float64]]:
    """Random different cells, (n, choices), and their true accuracies in percent, (n,)."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist: --data names the folder with nasbench201/ and cifar10/.")
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    genes = space.canonical(np.stack([genes_of_string(text) for text in table["arch_str"]]))
    different, number = np.unique(genes, axis=0, return_inverse=True)
    truth = np.bincount(number.ravel(), table[TRUTH]) / np.bincount(number.ravel())  # equal cells: the mean
    connected = np.flatnonzero(truth > 11)
    chosen = np.random.default_rng(0).permutation(connected)[:count]
    return different[chosen], truth[chosen]


def figures_of(
    space: NasBench201, data: Data, settings: TrainingSettings, folder: Path, genes: Genes, truth: NDArray[np.float64]
) -> dict[str, float]:
    """Figures of one training."""
    started = time.perf_counter()
    supernet = train(space, data, settings, folder).supernet.to(settings.device)
    trained = time.perf_counter() - started
    loss = settings.phases[-1].loss if settings.phases else None
    if isinstance(loss, Blockwise):
        teacher = beginning(space, folder / CHECKPOINT).to(settings.device)
        scores = -ratings_of(genes, supernet, data, loss, teacher=teacher)
    else:
        scores = SupernetAccuracy(space, supernet, data, threads=settings.threads).predict(genes)
    better = truth >= np.median(truth)
    return {
        "tau": float(kendalltau(scores, truth).statistic),
        "tau_of_better_half": float(kendalltau(scores[better], truth[better]).statistic),
        "chosen": float(truth[scores.argmax()]),
        "best": float(truth.max()),
        "train_s": round(trained, 1),
        "rank_s": round(time.perf_counter() - started - trained, 1),
    }


def summary(rows: list[dict[str, Any]], asked: Mapping[str, Any]) -> dict[str, float]:
    """Mean and standard deviation over the seeds of each recipe, of the settings that are asked for."""
    found: dict[str, float] = {}
    for name in RECIPES:
        taus = [row["tau"] for row in rows if row["recipe"] == name and asked.items() <= row.items()]
        if taus:
            found[f"tau_{name}"] = float(np.mean(taus))
            found[f"std_{name}"] = float(np.std(taus))
    return found


if __name__ == "__main__":
    main()
