"""Latency of translation Transformers from 200 measured ones: HAT's tables, four devices, every model of features.

    OMP_NUM_THREADS=1 python experiments/benchmarks/hat_latency.py --data ../shared/data [--rows 200] [--seeds 3]

Wang et al., "HAT: Hardware-Aware Transformers", ACL 2020, arXiv:2005.14187 publishes 2,000 networks per device: 10
averaged features, encoder and decoder latency. 200 random rows are fitted, the others predicted. ``chosen`` is the
model whose cross-validated error on the 200 rows is the least, anew in every run; ``plain_gp`` is scikit-learn's
Gaussian process with one length scale per feature, by which ours are to be judged. ``one_run`` is what the published
standard deviations imply for a single run against the mean: the noise of the truth itself is below that. The last line
has the share of rows predicted within 10 %, mean over seeds, of the chosen model, and its lead over plain_gp.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np
from scipy.special import erf

from predictors.assessment import quality
from predictors.ensemble import Ensemble
from predictors.gradient_boosting import GradientBoosting
from predictors.kriging import Kriging
from predictors.mlp import Mlp
from predictors.regression import Matrix, Regressor, best_by_cross_validation, centre_and_spread
from predictors.ridge import Ridge

RESULTS = common.RESULTS / "hat_latency.json"
TABLES = {
    "iwslt_titan_xp": "iwslt14deen_gpu_titanxp",
    "raspberry_pi": "wmt14ende_cpu_raspberrypi",
    "xeon": "wmt14ende_cpu_xeon",
    "wmt_titan_xp": "wmt14ende_gpu_titanxp",
}
FEW = Kriging(prior=0.1)  # ten features are few enough
CANDIDATES: dict[str, Regressor] = {
    "ridge": Ridge(degree=2),
    "boosting": GradientBoosting(),
    "kriging": Kriging(),
    "kriging_weak_prior": FEW,
    "mlp": Mlp(),
    "ensemble": Ensemble((Ridge(degree=2), GradientBoosting(), FEW)),
    "kriging_and_boosting": Ensemble((FEW, GradientBoosting())),
}


def read(path: Path) -> tuple[Matrix, Matrix, Matrix]:
    """Features (n, 10), latency in ms (n,), relative standard deviation of a run (n,)."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    names = table.dtype.names or ()
    features = np.column_stack([table[name] for name in names[:10]])
    latency = table["latency_mean_encoder"] + table["latency_mean_decoder"]
    return features, latency, np.hypot(table["latency_std_encoder"], table["latency_std_decoder"]) / latency


def plain_gp(features: Matrix, latency_ms: Matrix, unseen: Matrix) -> Matrix:
    """What scikit-learn's Gaussian process on the logarithm predicts for unseen features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel() * Matern(np.full(features.shape[1], 3.0), (1e-2, 1e4), nu=2.5) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
    centre, spread = centre_and_spread(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features - centre) / spread, np.log(latency_ms))
    return np.asarray(np.exp(model.predict((unseen - centre) / spread)))


def run(features: Matrix, latency: Matrix, rows: int, seed: int) -> dict[str, dict[str, float]]:
    """Hit rate, mean relative error and coverage by model, of one split."""
    order = np.random.default_rng(seed).permutation(len(features))
    seen, unseen = order[:rows], order[rows:]
    truth, judged = latency[unseen], {}
    start = time.perf_counter()
    plain = quality(truth, plain_gp(features[seen], latency[seen], features[unseen]))
    judged["plain_gp"] = {"hit_10": plain.within_10, "mape": plain.mape, "fit_s": time.perf_counter() - start}
    chosen, models = best_by_cross_validation(CANDIDATES, features[seen], latency[seen], seed=seed)
    for name, model in models.items():
        predicted, std = model.predict_with_std(features[unseen])
        figures = quality(truth, predicted)
        judged[name] = {
            "hit_10": figures.within_10,
            "mape": figures.mape,
            "expected_error": model.expected_error,
            "within_two_std": float((np.abs(predicted - truth) <= 2 * std).mean()),
        }
    judged["chosen"] = judged[chosen] | {"is_" + name: float(name == chosen) for name in CANDIDATES}
    start = time.perf_counter()
    Kriging().fit(features[seen], np.log(latency[seen]))
    judged["kriging"]["fit_s"] = time.perf_counter() - start
    return judged


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hat/*.csv")
    parser.add_argument("--rows", type=int, default=200, help="rows to fit")
    parser.add_argument("--seeds", type=int, default=3, help="random splits")
    options = parser.parse_args()
    missing = [name for name in TABLES.values() if not (options.data / "hat" / f"{name}.csv").exists()]
    if missing:
        parser.error(f"{options.data / 'hat'} lacks {missing[0]}.csv; it is part of HAT's repository.")
    tables: dict[str, Any] = {}
    for device, name in TABLES.items():
        features, latency, noise = read(options.data / "hat" / f"{name}.csv")
        runs = [run(features, latency, options.rows, seed) for seed in range(options.seeds)]
        tables[device] = {
            model: {key: float(np.mean([r[model][key] for r in runs])) for key in runs[0][model]} for model in runs[0]
        }
        tables[device]["one_run"] = {
            "hit_10": float(erf(0.1 / (noise * np.sqrt(2))).mean()),
            "mape": float((noise * np.sqrt(2 / np.pi)).mean()),
        }
        for model, figures in tables[device].items():
            print(device, model, " ".join(f"{key}={value:.3f}" for key, value in figures.items()), flush=True)
    conditions = common.conditions(
        "numpy", data="HAT's published tables, 2,000 networks each; all rows that are not fitted are predicted"
    )
    common.write(RESULTS, {"conditions": conditions, "figures": tables})
    shown = {device: table["chosen"]["hit_10"] for device, table in tables.items()}
    better = {f"{d}_over_plain_gp": t["chosen"]["hit_10"] - t["plain_gp"]["hit_10"] for d, t in tables.items()}
    print(" ".join(f"{name}={value:.3f}" for name, value in (shown | better).items()))


if __name__ == "__main__":
    main()
