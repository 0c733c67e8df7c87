"""Multi-layer perceptrons, in once-for-all's form and others: torch fits, NumPy predicts.

Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791 (128-400-400-400-1 for accuracy). A network can start from
another one: from one that predicts MACs and parameters, which cost nothing (Dai et al., "FBNetV3", CVPR 2021,
arXiv:2006.02049), or from that of a related metric (Wang et al., "APQ", CVPR 2020, arXiv:2006.08509:
int8 accuracy from fp32 accuracy).

    mlp = pretrained(Mlp(), space, rows=5_000)            # knows which networks are large
    fp32 = Regression(space, mlp, metric="accuracy", unit="1", scale="log_error", features=("one_hot",))
    int8 = Regression(space, Mlp(start=fp32.model.fitted), metric="accuracy", unit="1", ...)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.features import encode, statistics
from predictors.regression import Arrays, FeatureModel, Matrix, Regression, centre_and_spread
from predictors.saving import load
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError
from search_spaces.base.storage import read_arrays
from search_spaces.base.threads import torch_threads
from search_spaces.space import SearchSpace

BLOCK = 128
"""Rows that are multiplied at once, always exactly as many: single precision rounds by the size of a product, and a
prediction must not depend on how many others follow. On some of BLAS's kernels it depends on the row's place in the
block, by less than 1e-6 of a value. Larger blocks are a few percent faster, but populations are often of 100."""

ONCE_FOR_ALL_ERROR = 0.0021
"""Root mean square error of once-for-all's accuracy predictor on held-out networks, as its paper states it."""

Features = NDArray[np.floating[Any]]
Weights = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class FittedMlp:
    """Members of one form: per layer weights (members, in, out) and biases (members, 1, out), single precision."""

    centre: Matrix  # (f,)
    width: Matrix  # (f,)
    weights: Weights
    biases: Weights

    def outputs(self, features: Features) -> Matrix:
        """Outputs of each member, (members, n, outputs)."""
        members, _, outputs = self.weights[-1].shape
        if features.shape[1] != len(self.centre):
            raise MismatchError(f"The network reads {len(self.centre)} features, but got {features.shape[1]}.")
        standard = not self.centre.any() and bool((self.width == 1).all())
        result = np.zeros((members, len(features), outputs))
        block = np.zeros((BLOCK, features.shape[1]), np.float32)
        hidden = [np.empty((BLOCK, weights.shape[2]), np.float32) for weights in self.weights[:-1]]
        for start in range(0, len(features), BLOCK):
            part = slice(start, start + BLOCK)
            rows = features[part]
            block[: len(rows)] = rows if standard else (rows - self.centre) / self.width
            for m in range(members):
                x = block
                for weights, y, shift in zip(self.weights, hidden, self._shifts[m], strict=False):
                    np.matmul(x, weights[m], out=y)
                    x = np.maximum(y, -shift, out=y)
                last = np.einsum("nh,oh->no", x[: len(rows)], self.weights[-1][m].T)  # each row by itself
                result[m, part] = last + self._shifts[m][-1]
        return result

    @functools.cached_property
    def _shifts(self) -> list[list[NDArray[np.float32]]]:
        """Biases of each layer per member, (out,), and what the layer before left out: as max(x + b, 0) is
        max(x, -b) + b, one pass takes the maximum, and the b behind it goes through the next layer's weights.
        """
        members = []
        for m in range(len(self.weights[0])):
            shift, shifts = np.zeros(len(self.centre), np.float32), []
            for weights, biases in zip(self.weights, self.biases, strict=True):
                shift = shift @ weights[m] + biases[m, 0]
                shifts.append(shift)
            members.append(shifts)
        return members

    def predict(self, features: Features) -> Matrix:
        """Targets (n,): the mean of the members."""
        return np.asarray(self.outputs(features)[:, :, 0].mean(0))

    def spread(self, features: Features) -> Matrix:
        """Standard deviation over members; 0 for a single one."""
        return np.asarray(self.outputs(features)[:, :, 0].std(0))

    def to_arrays(self) -> Arrays:
        layers = {f"weights{i}": array for i, array in enumerate(self.weights)}
        layers |= {f"biases{i}": array for i, array in enumerate(self.biases)}
        return {"centre": self.centre, "width": self.width, "layers": np.array(len(self.weights)), **layers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        count = range(int(arrays["layers"]))
        weights, biases = (tuple(arrays[f"{name}{i}"] for i in count) for name in ("weights", "biases"))
        return cls(arrays["centre"], arrays["width"], weights, biases)


@dataclass(frozen=True)
class Mlp:
    """Several perceptrons with ReLU, fitted at once from different random weights; their mean predicts.

    Args:
        hidden: widths of the hidden layers; a network to start from brings its own.
        members: networks.
        steps: of AdamW, the learning rate falling to 0 along a cosine.
        batch: rows per step and member.
        learning_rate: the largest.
        weight_decay: of AdamW.
        seed: of weights and batches.
        start: a network whose layers are taken to start from; its last one only where it has one output. If it reads
            fewer features than are given, these are the first ones, and the weights of the others start at 0.
    """

    hidden: tuple[int, ...] = (128, 128)
    members: int = 4
    steps: int = 300
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0
    start: FittedMlp | None = None

    def __post_init__(self) -> None:
        if min(self.hidden, default=0) < 1 or min(self.members, self.steps, self.batch) < 1:
            raise InvalidValueError(
                "`hidden` needs one or more widths, and these, `members`, `steps` and `batch` must be >= 1, but got "
                f"{self.hidden}, {self.members}, {self.steps}, {self.batch}."
            )
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise InvalidValueError(
                f"`learning_rate` must be > 0 and `weight_decay` >= 0, but got {self.learning_rate}, "
                f"{self.weight_decay}."
            )

    def fit(self, features: Features, targets: Matrix) -> FittedMlp:
        """Fit to targets (n,), or (n, outputs) of which all are learned."""
        with torch_threads(1):  # whose number changes the last bits
            return self._fit(features, targets)

    def _fit(self, features: Features, targets: Matrix) -> FittedMlp:
        import torch

        rows = np.asarray(features, np.float64)
        wanted = targets if targets.ndim == 2 else targets[:, None]
        centre, width, weights, biases = self._first(rows, wanted.shape[1])
        parameters = [torch.tensor(array, requires_grad=True) for array in (*weights, *biases)]
        w, b = parameters[: len(weights)], parameters[len(weights) :]
        x = torch.tensor((rows - centre) / width, dtype=torch.float32)
        y = torch.tensor(wanted, dtype=torch.float32)
        rng = np.random.default_rng(self.seed)
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        size = (self.members, min(self.batch, len(x)))
        for _ in range(self.steps):
            drawn = torch.from_numpy(rng.integers(0, len(x), size))
            out = x[drawn]  # (members, batch, f)
            for layer in range(len(w)):
                out = torch.baddbmm(b[layer], out, w[layer])
                if layer < len(w) - 1:
                    out = out.relu()
            loss = torch.nn.functional.smooth_l1_loss(out, y[drawn], beta=0.1) * self.members
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        arrays = [parameter.detach().numpy().copy() for parameter in parameters]
        return FittedMlp(centre, width, tuple(arrays[: len(weights)]), tuple(arrays[len(weights) :]))

    def _first(self, features: Matrix, outputs: int) -> tuple[Matrix, Matrix, list[Any], list[Any]]:
        """Centre and width of the features, and what weights and biases are before the fit."""
        centre, width = centre_and_spread(features)
        hidden = self.hidden if self.start is None else tuple(array.shape[2] for array in self.start.weights[:-1])
        rng, sizes = np.random.default_rng(self.seed), (features.shape[1], *hidden, outputs)
        weights = [
            rng.normal(0, np.sqrt(2 / a), (self.members, a, b)) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        ]  # He et al., "Delving deep into rectifiers", ICCV 2015
        weights[-1][:] = 0  # a fit starts from the mean of all targets
        biases = [np.zeros((self.members, 1, b)) for b in sizes[1:]]
        if self.start is not None:
            known = len(self.start.centre)
            if known > features.shape[1]:
                raise MismatchError(
                    f"The network to start from reads {known} features, but there are only {features.shape[1]}."
                )
            centre[:known], width[:known] = self.start.centre, self.start.width
            weights[0][:, known:] = 0
            same_output = outputs == self.start.weights[-1].shape[2]
            for layer in range(len(weights) if same_output else len(hidden)):
                whose = np.arange(self.members) % len(self.start.weights[layer])
                rows = slice(0, known) if layer == 0 else slice(None)
                weights[layer][:, rows] = self.start.weights[layer][whose]
                biases[layer][:] = self.start.biases[layer][whose]
        return centre, width, [a.astype(np.float32) for a in weights], [a.astype(np.float32) for a in biases]


def pretrained(
    mlp: Mlp, space: SearchSpace, *, rows: int = 5_000, features: Sequence[str] = ("one_hot",), seed: int = 0
) -> Mlp:
    """An `Mlp` that starts from a network that predicts `statistics` of random architectures of the space.

    Args:
        mlp: its form; it is also how the network to start from is fitted.
        space: whose architectures are drawn.
        rows: how many of them.
        features: what the network reads; the regression that it is for must read the same.
        seed: of the drawing.
    """
    genes = space.sample(rows, np.random.default_rng(seed))
    known = statistics(space, genes)
    centre, spread = centre_and_spread(known)
    return replace(mlp, start=mlp.fit(encode(space, genes, features), (known - centre) / spread))


def pretrained_regression(
    space: SearchSpace, *, mlp: Mlp | None = None, rows: int = 5_000, seed: int = 0, **settings: Any
) -> Regression:
    """A `Regression` on one-hot genes whose network starts from what MACs and parameters teach; see `pretrained`.

    Args:
        space: whose architectures it predicts.
        mlp: its form.
        rows: architectures that it is pretrained on.
        seed: of their drawing, and of the regression.
        settings: more of `Regression`.
    """
    start = pretrained(mlp or Mlp(seed=seed), space, rows=rows, seed=seed)
    return Regression(space, start, features=("one_hot",), seed=seed, **settings)


def transferred_regression(
    space: SearchSpace, *, source: str | Path, mlp: Mlp | None = None, seed: int = 0, **settings: Any
) -> Regression:
    """A `Regression` whose network starts from that of a saved one of the same space, for a related metric.

    Args:
        space: whose architectures it predicts.
        source: file of a saved `Regression` with an `Mlp`; its features are taken too.
        mlp: how it is fitted.
        seed: of the regression.
        settings: more of `Regression`.

    Raises:
        MismatchError: the file holds a predictor of another space, or one without a network to start from.
    """
    saved_one = load(Path(source), space)
    if not isinstance(saved_one, Regression) or not isinstance(saved_one.model.fitted, FittedMlp):
        raise MismatchError(
            f"{source} holds no perceptron to start from, but a {type(saved_one).__name__}. "
            "Fit that run with `accuracy=mlp` first."
        )
    start = replace(mlp or Mlp(seed=seed), start=saved_one.model.fitted)
    return Regression(space, start, features=saved_one.features, seed=seed, **settings)


def read_once_for_all(path: Path) -> FittedMlp:
    """Once-for-all's published accuracy predictor, from an npz file of its PyTorch state: ``0.weight``, ``0.bias``...

    Its features are ``once_for_all`` of `predictors.features`; its values rank networks, on a scale of their own.

    Raises:
        DamagedFileError: the file holds something else.
    """
    arrays = read_arrays(path)
    numbers = sorted({int(name.split(".")[0]) for name in arrays if name.split(".")[0].isdigit()})
    if not numbers or set(arrays) != {f"{n}.{part}" for n in numbers for part in ("weight", "bias")}:
        raise DamagedFileError(f"{path} holds no perceptron ('0.weight', '0.bias', ...), but {sorted(arrays)[:4]}.")
    weights = tuple(np.ascontiguousarray(arrays[f"{n}.weight"].T, np.float32)[None] for n in numbers)
    biases = tuple(arrays[f"{n}.bias"].astype(np.float32)[None, None] for n in numbers)
    shapes = [array.shape[1:] for array in weights]
    fits = all(a[1] == b[0] for a, b in zip(shapes[:-1], shapes[1:], strict=True)) and shapes[-1][1] == 1
    if not fits or any(w.shape[2] != b.shape[2] for w, b in zip(weights, biases, strict=True)):
        raise DamagedFileError(f"The layers of {path} do not fit each other: {shapes}.")
    inputs = shapes[0][0]
    return FittedMlp(np.zeros(inputs), np.ones(inputs), weights, biases)


def once_for_all_accuracy(space: SearchSpace, *, file: str | Path, seed: int = 0) -> Regression:
    """Once-for-all's published accuracy predictor as a predictor of a space: fractions, for ranking.

    It comes without the pairs that it was fitted to, so its error is the published one, `ONCE_FOR_ALL_ERROR`, grown
    with the distance from random networks of the space.

    Args:
        space: once-for-all's MobileNetV3, of any width.
        file: see `read_once_for_all`.
        seed: of the random networks.

    Raises:
        MismatchError: the predictor is of another space; the message names both.
        DamagedFileError: the file holds something else.
    """
    try:
        rows = encode(space, space.sample(1_000, np.random.default_rng(seed)), ("once_for_all",))
    except MismatchError as error:
        raise MismatchError(
            "Once-for-all's published accuracy predictor is of space 'ofa_mobilenet_v3', but this run's space is "
            f"{space.name!r}. Choose `space=ofa_mobilenet_v3`, or a predictor that is fitted to accuracies."
        ) from error
    predictor = Regression(space, None, metric="accuracy", unit="1", scale="linear", features=("once_for_all",))
    predictor.model = FeatureModel.of(read_once_for_all(Path(file)), rows, ONCE_FOR_ALL_ERROR)
    return predictor
