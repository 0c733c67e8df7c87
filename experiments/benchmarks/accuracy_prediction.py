"""Accuracy predictors from few labels: which model, and what pretraining and transfer add.

    OMP_NUM_THREADS=1 python experiments/benchmarks/accuracy_prediction.py --data DATA [--seeds 10]

NAS-Bench-201, cells that connect input and output, accuracies after 200 epochs. Each model is fitted to the CIFAR-100
accuracies of n random cells and judged on 1,000 others by Kendall tau, mean over seeds (all models get the same cells).
``mlp_pretrained`` starts from a network that knows MACs and parameters of 5,000 cells (FBNetV3's way);
``mlp_transferred`` from one fitted to the CIFAR-10 accuracies of 500 other cells (APQ's way: a related metric that is
known better), beside which ``cifar10`` is that network's own ranking. Also: how many of the judged accuracies lie
within two of the standard deviations that a model states (about 95 % should).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import yaml
from hydra.utils import instantiate
from numpy.typing import NDArray
from scipy.stats import kendalltau

from predictors import GaussianProcess, GradientBoosting, Kriging, Mlp, Regression, Ridge, pretrained
from search_spaces import Genes, NasBench201
from search_spaces.nasbench201 import genes_of_string

RESULTS = common.RESULTS / "accuracy_prediction.json"
LABELLED, JUDGED, SOURCE = (20, 50, 100, 200), 1_000, 500
BOTH = ("one_hot", "statistics")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    settings = common.space_settings("nasbench201")
    space = NasBench201(**settings)
    genes, source, target = cells(space, arguments.data / "nasbench201" / "accuracy.csv")
    print(f"cells={len(genes)} tau_of_cifar10_with_cifar100={kendalltau(source, target).statistic:.3f}", flush=True)

    known = pretrained(Mlp(), space, rows=5_000)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for seed in range(arguments.seeds):
        order = np.random.default_rng(seed).permutation(len(genes))
        judged, others, rest = order[:JUDGED], order[JUDGED : JUDGED + SOURCE], order[JUDGED + SOURCE :]
        first = regression(space, Mlp(seed=seed), ("one_hot",))
        first.fit(genes[others], source[others])
        tau = float(kendalltau(first.predict(genes[judged]), target[judged]).statistic)
        started = replace(Mlp(seed=seed), start=first.model.fitted)  # type: ignore[arg-type]
        makers = models(space, Mlp(seed=seed), replace(known, seed=seed), started)
        for n in LABELLED:
            found.setdefault(("cifar10", n), []).append((tau, np.nan))
            for name, make in makers.items():
                model = make()
                model.fit(genes[rest[:n]], target[rest[:n]])
                mean, std = model.predict_with_std(genes[judged])
                ranked = float(kendalltau(mean, target[judged]).statistic)
                within = float((np.abs(mean - target[judged]) <= 2 * std).mean())
                found.setdefault((name, n), []).append((ranked, within))

    figures: dict[str, float] = {}
    for (name, n), rows in found.items():
        taus, shares = np.array(rows).T
        figures[f"{name}_{n}"] = float(taus.mean())
        figures[f"{name}_{n}_std"] = float(taus.std())
        figures[f"{name}_{n}_within_2_std"] = float(shares.mean())
        print(
            f"{name:18} n={n:3} tau={taus.mean():.3f} +-{taus.std():.3f} within_2_std={shares.mean():.3f}", flush=True
        )
    conditions = common.conditions("torch", "scikit-learn", "numpy")
    kept = {name: value for name, value in figures.items() if np.isfinite(value)}
    common.write(RESULTS, {"conditions": conditions, "figures": kept})
    best = {name: kept[f"{name}_{n}"] for n in (50,) for name in sorted({key for key, _ in found})}
    print(" ".join(f"{name}_50={value:.3f}" for name, value in best.items()))


def models(space: NasBench201, fresh: Mlp, known: Mlp, started: Mlp) -> dict[str, Callable[[], Any]]:
    """What makes each model; the perceptrons start from nothing, from statistics, and from CIFAR-10, and the ensemble
    is what `nas fit` takes by default."""
    shipped = yaml.safe_load((common.CONF / "accuracy" / "ensemble.yaml").read_text())
    return {
        "ridge": lambda: regression(space, Ridge(), BOTH),
        "gradient_boosting": lambda: regression(space, GradientBoosting(), BOTH),
        "gaussian_process": lambda: GaussianProcess(space),
        "kriging": lambda: regression(space, Kriging(), BOTH),
        "ensemble": lambda: regression(space, instantiate(shipped["regressor"], _convert_="all"), BOTH),
        "mlp": lambda: regression(space, fresh, ("one_hot",)),
        "mlp_pretrained": lambda: regression(space, known, ("one_hot",)),
        "mlp_transferred": lambda: regression(space, started, ("one_hot",)),
    }


def regression(space: NasBench201, regressor: Any, features: tuple[str, ...]) -> Regression:
    """A model of accuracies."""
    return Regression(space, regressor, metric="accuracy", unit="1", scale="log_error", features=features)


def cells(space: NasBench201, path: Path) -> tuple[Genes, NDArray[np.float64], NDArray[np.float64]]:
    """Distinct connected cells (n, choices), their CIFAR-10 and their CIFAR-100 accuracies (n,) as fractions."""
    found: dict[bytes, tuple[NDArray[np.int16], float, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if float(row["cifar10_test_200ep"]) > 10.5:  # cells that do not connect input and output guess: 10 %
                genes = space.canonical(genes_of_string(row["arch_str"])[None])[0]
                values = (float(row[f"{data}_test_200ep"]) / 100 for data in ("cifar10", "cifar100"))
                found.setdefault(genes.tobytes(), (genes, *values))
    genes, source, target = zip(*found.values(), strict=True)
    return np.stack(genes), np.array(source), np.array(target)


if __name__ == "__main__":
    main()
