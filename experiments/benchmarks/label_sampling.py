"""Networks that are worth a label: random ones, ones spread over the sizes, or those that a predictor doubts most.

    OMP_NUM_THREADS=1 python experiments/benchmarks/label_sampling.py --data DATA [--seeds 5]

NAS-Bench-201, cells that connect input and output, CIFAR-10 accuracies after 200 epochs. The predictor that `nas fit`
takes by default is fitted to n cells (beside the smallest and the biggest, always) and judged by Kendall tau on 1,000
other random cells, on the best tenth of these, and on 200 of these whose MACs are spread evenly. `disagreement`: a
quarter at random, then thrice a quarter of those among 2,000 candidates whose predictive standard deviation is largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import yaml
from accuracy_prediction import BOTH, cells, regression
from hydra.utils import instantiate
from numpy.typing import NDArray
from scipy.stats import kendalltau

from predictors import Regression, macs
from search_spaces import Genes, NasBench201

RESULTS = common.RESULTS / "label_sampling.json"
LABELLED, JUDGED, SPREAD, CANDIDATES = (24, 50, 100, 200), 1_000, 200, 2_000
FEWEST = 10

Rows = NDArray[np.intp]
Fit = Callable[[Rows], Regression]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    space = NasBench201(**common.space_settings("nasbench201"))
    genes, truth, _ = cells(space, arguments.data / "nasbench201" / "accuracy.csv")
    work = macs(space).predict(genes)
    shipped = yaml.safe_load((common.CONF / "accuracy" / "ensemble.yaml").read_text())

    def fit(rows: Rows) -> Regression:
        model = regression(space, instantiate(shipped["regressor"], _convert_="all"), BOTH)
        model.fit(genes[rows], truth[rows])
        return model

    found: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        order = np.random.default_rng(seed).permutation(len(genes))
        ends = np.array([work.argmin(), work.argmax()])
        order = order[~np.isin(order, ends)]
        judged, rest = order[:JUDGED], order[JUDGED:]
        parts = {
            "all": judged,
            "best": judged[np.argsort(-truth[judged])[: JUDGED // 10]],
            "spread": spread(work, judged, SPREAD),
        }
        for n in LABELLED:
            ways = {
                "random": rest[:n],
                "spread": spread(work, rest[:CANDIDATES], n),
                "disagreement": doubted(fit, genes, ends, rest, n),
            }
            for name, rows in ways.items():
                model = fit(np.concatenate([ends, rows]))
                for part, unseen in parts.items():
                    tau = float(kendalltau(model.predict(genes[unseen]), truth[unseen]).statistic)
                    found.setdefault(f"{name}_{n}_{part}", []).append(tau)
    figures: dict[str, float] = {}
    for key, taus in found.items():
        figures[key], figures[f"{key}_std"] = float(np.mean(taus)), float(np.std(taus))
        print(f"{key:26} tau={np.mean(taus):.3f} +-{np.std(taus):.3f}", flush=True)
    common.write(RESULTS, {"conditions": common.conditions("scikit-learn", "numpy"), "figures": figures})


def spread(work: NDArray[np.float64], rows: Rows, n: int) -> Rows:
    """n of the rows whose MACs (cells,) are spread evenly over their logarithm."""
    left, sizes = list(rows), np.log(work)
    wanted = np.linspace(sizes[rows].min(), sizes[rows].max(), n)
    return np.array([left.pop(int(np.abs(sizes[left] - size).argmin())) for size in wanted])


def doubted(fit: Fit, genes: Genes, ends: Rows, rows: Rows, n: int) -> Rows:
    """n of the rows: a quarter are the first, then thrice those that the predictor of the earlier ones doubts most."""
    quarter = max(n // 4, FEWEST)
    chosen, candidates = rows[:quarter], rows[quarter : quarter + CANDIDATES]
    while len(chosen) < n:
        _, std = fit(np.concatenate([ends, chosen])).predict_with_std(genes[candidates])
        doubts = np.argsort(-std)[: min(quarter, n - len(chosen))]
        chosen, candidates = np.concatenate([chosen, candidates[doubts]]), np.delete(candidates, doubts)
    return chosen


if __name__ == "__main__":
    main()
