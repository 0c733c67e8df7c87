"""Zero-cost proxies on NAS-Bench-201: do they rank cells, and what do they add to a few labels?

    OMP_NUM_THREADS=1 python experiments/benchmarks/zero_cost.py --data DATA [--cells 200]

Truth: CIFAR-10 test accuracy after 200 epochs, of random cells that connect input and output. Proxies: on the space's
own networks (16 channels, 15 cells), one batch of 64 training images (JPEG, quality 75), one initialisation. Ranking:
Spearman and Kendall tau over the cells, beside parameters and MACs.

Features: ridge and a Gaussian process are fitted to the accuracies of 32 and of 100 random cells and judged by Spearman
on the cells that remain, mean over 20 draws; from the one-hot encoding, from parameters and MACs beside it, from the
proxies beside these. All features but the one-hot ones are mapped to normal quantiles of the labelled cells.

For orientation, Abdelfattah et al., arXiv:2101.08134, publish for all 15,625 cells, on CIFAR-10, a Spearman of 0.74 for
synflow, 0.73 for jacov, 0.58 for snip and for grad_norm.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import kendalltau, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import QuantileTransformer

from predictors import macs, params
from predictors.base import Predictor
from predictors.zero_cost import PROXIES, ProxyFeatures, ZeroCost
from search_spaces import Architecture, NasBench201
from search_spaces.nasbench201 import genes_of_string

RESULTS = common.RESULTS / "zero_cost.json"
BATCH, DRAWS, LABELLED, SEED = 64, 20, (32, 100), 0
Matrix = NDArray[np.float64]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nasbench201/ and cifar10/")
    parser.add_argument("--cells", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.cells < 2 * LABELLED[-1]:
        parser.error(f"--cells must be {2 * LABELLED[-1]} or more, so that as many are unlabelled as are labelled.")
    settings = common.space_settings("nasbench201")
    space = NasBench201(**settings)
    genes, accuracy = cells(space, arguments.data / "nasbench201" / "accuracy.csv", arguments.cells)
    images, labels = batch(arguments.data / "cifar10" / "cifar10_jpeg.npz")

    predictors: dict[str, Predictor] = {"params": params(space), "macs": macs(space)}
    predictors |= {name: ZeroCost(space, name, images, labels, seed=SEED) for name in PROXIES}
    figures: dict[str, float] = {}
    for name, predictor in predictors.items():
        started = time.perf_counter()
        scores = predictor.predict(genes)
        figures[f"{name}_spearman"] = float(spearmanr(scores, accuracy).statistic)
        figures[f"{name}_kendall"] = float(kendalltau(scores, accuracy).statistic)
        if name in PROXIES:
            figures[f"{name}_s"] = (time.perf_counter() - started) / len(genes)
        show({key: value for key, value in figures.items() if key.startswith(f"{name}_")})

    exact = [predictors["params"], predictors["macs"]]
    encoded = space.encode(genes).astype(np.float64)
    sources: dict[str, Matrix] = {
        "onehot": np.zeros((len(genes), 0)),
        "exact": ProxyFeatures(space, exact).features(genes),
        "synflow": ProxyFeatures(space, [*exact, predictors["synflow"]]).features(genes),
        "proxies": ProxyFeatures(space, list(predictors.values())).features(genes),
    }
    for n in LABELLED:
        for name, scores in sources.items():
            ranked = learned(encoded, scores, accuracy, n)
            row = {f"{model}_{n}_{name}": value for model, value in ranked.items()}
            figures |= row
            show(row)

    conditions = common.conditions("torch", "scikit-learn", "numpy", cells=len(genes), batch=BATCH, draws=DRAWS)
    common.write(RESULTS, {"conditions": conditions, "figures": figures})
    show(figures)


def show(figures: dict[str, float]) -> None:
    """One line."""
    print(" ".join(f"{name}={value:.3g}" for name, value in figures.items()), flush=True)


def cells(space: NasBench201, path: Path, n: int) -> tuple[NDArray[np.int16], Matrix]:
    """Random connected cells, no two of them equal, and their accuracies in percent."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    found: dict[Architecture, float] = {}
    for number in np.random.default_rng(SEED).permutation(len(rows)):
        accuracy = float(rows[number]["cifar10_test_200ep"])
        if accuracy > 10.5:  # the 341 that do not connect input and output guess: 10 %
            found.setdefault(Architecture(space, genes_of_string(rows[number]["arch_str"])), accuracy)
        if len(found) == n:
            break
    return np.stack([architecture.genes for architecture in found]), np.array(list(found.values()))


def batch(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random training images (B, 3, 32, 32), each channel of mean 0 and deviation 1, and their classes (B,)."""
    stored = np.load(path)
    train = np.flatnonzero(stored["split"] == 0)
    chosen = np.random.default_rng(SEED).choice(train, BATCH, replace=False)
    header, body, offsets = stored["header"].tobytes(), stored["body"], stored["offsets"]
    pixels = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(header + body[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB"))
            for i in chosen
        ]
    ).astype(np.float32)  # (B, 32, 32, 3)
    pixels = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    return pixels.transpose(0, 3, 1, 2), stored["labels"][chosen].astype(np.int64)


def learned(encoded: Matrix, scores: Matrix, accuracy: Matrix, n: int) -> dict[str, float]:
    """Spearman on cells without label of models fitted to n labelled cells, mean over draws."""
    found: dict[str, list[float]] = {"ridge": [], "gp": []}
    for draw in range(DRAWS):
        order = np.random.default_rng([SEED, draw]).permutation(len(accuracy))
        seen, unseen = order[:n], order[n:]
        x = np.concatenate([encoded, quantiles(scores, seen)], 1)
        y = accuracy[seen]
        kernel = ConstantKernel() * Matern(3.0, (0.3, 1e2), nu=2.5) + WhiteKernel(0.1, (1e-5, 1e1))
        models = {
            "ridge": RidgeCV(np.logspace(-2, 3, 16)),
            "gp": GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=draw),
        }
        error = np.log(101 - y)  # accuracies crowd below 95 %, with a long tail far below
        for name, model in models.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x[seen], error)
            found[name].append(float(spearmanr(-model.predict(x[unseen]), accuracy[unseen]).statistic))
    return {name: float(np.mean(values)) for name, values in found.items()}


def quantiles(scores: Matrix, seen: Sequence[int] | NDArray[np.int64]) -> Matrix:
    """Each column as normal quantiles of its values on the labelled cells, within 2 deviations."""
    if scores.shape[1] == 0:
        return scores
    scaler = QuantileTransformer(n_quantiles=len(seen), output_distribution="normal").fit(scores[seen])
    return np.asarray(scaler.transform(scores)).clip(-2, 2)


if __name__ == "__main__":
    main()
