"""The contract of a predictor, as checks that any plug-in can run.

    from predictors.predictor_contract import check_predictor, check_trainable
    check_predictor(fitted, space, np.random.default_rng(0))
    check_trainable(lambda: MyPredictor(space), space, np.random.default_rng(0))
    check_uncertain(lambda: MyPredictor(space), space, np.random.default_rng(0))

A check raises `AssertionError` that says what was expected and what came instead.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats

from predictors.base import Bounded, Predictor, Trainable, Uncertain, Values
from predictors.saving import load, save
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.fresh_process import in_fresh_process
from search_spaces.base.storage import read_arrays
from search_spaces.space import SearchSpace

ROWS = 48
"""Random networks that predictions are compared on."""

PAIRS = 120
"""Pairs that a trainable predictor is fitted on, and as many that it is judged by."""

RANK_CORRELATION = 0.5
"""Kendall tau that a fit must reach on a function that is a sum over choices."""

TOLERANCE = 1e-9
"""Relative; sums of a batch may be taken in another order than those of one row."""

SINGLE_PRECISION = 1e-6
"""The same for what is multiplied in single precision: some of BLAS's kernels, such as those for AMD's EPYC, round a
row by its place in the batch."""


def check_predictor(
    predictor: Predictor,
    space: SearchSpace,
    rng: np.random.Generator,
    *,
    infinite: bool = False,
    tolerance: float = TOLERANCE,
) -> None:
    """Check everything that the search relies on.

    Args:
        predictor: ready to predict, fitted where it must be.
        space: whose architectures it predicts.
        rng: draws the architectures.
        infinite: whether some values may be inf: networks that the device cannot run.
        tolerance: relative, of a value that is predicted beside other rows; or `SINGLE_PRECISION`.

    Raises:
        AssertionError: the first rule that it breaks.
    """
    for name in ("metric", "unit"):
        text = getattr(predictor, name)
        _expect(isinstance(text, str) and bool(text.strip()), f"`{name}` must be a word, but got {text!r}.")
    genes = np.concatenate([space.sample(ROWS, rng), space.smallest.genes[None], space.biggest.genes[None]])
    given = genes.copy()
    values = _predicted(predictor, genes)
    _expect(np.array_equal(genes, given), "predict changes the genes that it is given.")
    _expect(not np.isnan(values).any() and not np.isneginf(values).any(), f"Predictions must be numbers: {values}.")
    _expect(infinite or bool(np.isfinite(values).all()), f"Predictions must be finite, but got {values}.")

    _expect_equal(_predicted(predictor, genes), values, "predict gives other values when it is asked again")
    order = rng.permutation(len(genes))
    _expect_equal(
        _predicted(predictor, genes[order]), values[order], "predict depends on the order of the rows", tolerance
    )
    some = np.argsort(values)[2:-2]  # without the extremes
    _expect_equal(
        _predicted(predictor, genes[some]), values[some], "predict of a row depends on the other rows", tolerance
    )
    single = np.concatenate([_predicted(predictor, genes[i : i + 1]) for i in range(ROWS // 4)])
    _expect_equal(single, values[: ROWS // 4], "predict of a row alone differs from that in a batch", tolerance)
    twice = _predicted(predictor, np.repeat(genes, 2, axis=0))
    _expect_equal(twice, np.repeat(values, 2), "predict gives equal rows different values", tolerance)
    _predicted(predictor, genes[:0])

    if isinstance(predictor, Bounded):
        best, least = predictor.minimum()
        _expect(
            np.array_equal(space.canonical(space.validate(best[None]))[0], best), f"minimum gives a wrong row {best}."
        )
        _expect_equal(
            _predicted(predictor, best[None]), np.array([least]), "minimum states another value than predict", tolerance
        )
        lower = values < least - TOLERANCE * abs(least)
        _expect(not lower.any(), f"minimum states {least}, but a network with {values.min()} was found.")
    if hasattr(predictor, "to_arrays"):
        _check_file(predictor, space, genes, values)


def check_trainable(make: Callable[[], Trainable], space: SearchSpace, rng: np.random.Generator) -> None:
    """Check what a predictor does with pairs to fit, good ones and bad ones.

    Args:
        make: a new, unfitted predictor.
        space: whose architectures it predicts.
        rng: draws the pairs.

    Raises:
        AssertionError: the first rule that it breaks.
    """
    genes = space.sample(2 * PAIRS, rng)
    values = _learnable(space, genes)
    seen, unseen = slice(0, PAIRS), slice(PAIRS, None)
    _expect_refusal(lambda: make().predict(genes), "predict before fit")

    with_nan, with_inf, given = values[seen].copy(), values[seen].copy(), (genes.copy(), values.copy())
    with_nan[3], with_inf[3] = np.nan, np.inf
    for what, some, pairs in (
        ("a NaN value", genes[seen], with_nan),
        ("an infinite value", genes[seen], with_inf),
        ("one pair", genes[:1], values[:1]),
        ("no pairs", genes[:0], values[:0]),
        ("fewer values than genes", genes[seen], values[: PAIRS - 1]),
        ("values of shape (n, 1)", genes[seen], values[seen, None]),
        ("genes that lack a choice", genes[seen, 1:], values[seen]),
        ("genes out of range", genes[seen] + space.cardinalities, values[seen]),
    ):
        predictor = make()
        _expect_refusal(lambda p=predictor, g=some, v=pairs: p.fit(g, v), f"a fit to {what}")  # type: ignore[misc]

    predictor = make()
    predictor.fit(genes[seen], values[seen])
    _expect(np.array_equal(genes, given[0]) and np.array_equal(values, given[1]), "fit changes what it is given.")
    tau = float(stats.kendalltau(_predicted(predictor, genes[unseen]), values[unseen]).statistic)
    _expect(
        tau >= RANK_CORRELATION,
        f"After a fit to {PAIRS} pairs of a sum over choices Kendall's tau must be {RANK_CORRELATION} or more on "
        f"networks that the fit has not seen, but is {tau:.2f}.",
    )
    first = _predicted(predictor, genes)
    another = make()
    another.fit(genes[seen], values[seen])
    _expect_equal(_predicted(another, genes), first, "A second fit to the same pairs predicts other values")
    another.fit(genes[unseen], values[unseen])
    fresh = make()
    fresh.fit(genes[unseen], values[unseen])
    _expect_equal(
        _predicted(another, genes), _predicted(fresh, genes), "A fit remembers the pairs of an earlier one: it predicts"
    )
    _expect_equal(_predicted(predictor, genes), first, "The fit of one predictor changes another one's values")


class _UncertainTrainable(Trainable, Uncertain, Protocol):
    """Predictor that `check_uncertain` fits."""


def check_uncertain(make: Callable[[], _UncertainTrainable], space: SearchSpace, rng: np.random.Generator) -> None:
    """Check that a predictor knows what it does not know: it is fitted to small networks and asked for large ones.

    Args:
        make: a new, unfitted predictor.
        space: whose architectures it predicts.
        rng: draws the networks.

    Raises:
        AssertionError: the first rule that it breaks.
    """
    smallest, biggest = space.smallest.genes, space.biggest.genes
    near = space.mutate(np.repeat(smallest[None], PAIRS + ROWS, 0), rng, 0.2)
    far = space.mutate(np.repeat(biggest[None], ROWS, 0), rng, 0.2)
    for action in ("predict_with_std", "extrapolates"):
        _expect_refusal(lambda name=action: getattr(make(), name)(near), f"{action} before fit")  # type: ignore[misc]
    predictor = make()
    predictor.fit(near[:PAIRS], _learnable(space, near[:PAIRS]) * np.exp(rng.normal(0, 0.02, PAIRS)))
    deviations = []
    for genes in (near[PAIRS:], far):
        mean, std = predictor.predict_with_std(genes)
        _expect_equal(mean, _predicted(predictor, genes), "predict_with_std gives another mean than predict")
        shaped = isinstance(std, np.ndarray) and std.shape == (len(genes),) and std.dtype == np.float64
        _expect(shaped, f"The deviation must be float64 of shape ({len(genes)},), but is {std!r}.")
        _expect(bool(np.isfinite(std).all() and (std > 0).all()), f"Deviations must be finite and positive: {std}.")
        single = np.concatenate([predictor.predict_with_std(genes[i : i + 1])[1] for i in range(4)])
        _expect(np.allclose(single, std[:4], rtol=1e-4), "The deviation of a row alone differs from that in a batch.")
        deviations.append(float(np.median(std)))
    _expect(
        deviations[1] > deviations[0],
        f"The deviation must grow with the distance from the fitted networks, but is {deviations[0]:.3g} near them "
        f"and {deviations[1]:.3g} far from them.",
    )
    flags = [predictor.extrapolates(genes) for genes in (near[:PAIRS], far)]
    _expect(
        all(f.dtype == np.bool_ and f.shape == (n,) for f, n in zip(flags, (PAIRS, ROWS), strict=True)),
        "extrapolates must give bool of shape (n,).",
    )
    _expect(not flags[0].any(), "extrapolates flags networks of the fit.")
    beyond = np.arange(len(space.choices))[(near[:PAIRS] != biggest).all(0)]  # genes at a value that no pair has
    unlike = (far[:, beyond] == biggest[beyond]).any(1)
    _expect(bool(flags[1][unlike].all()), "extrapolates misses networks with a choice that no fitted network has.")
    _expect(bool(predictor.extrapolates(biggest[None])[0] or not len(beyond)), "extrapolates misses the largest.")


def _learnable(space: SearchSpace, genes: Genes) -> Values:
    """A function that every predictor of latency or accuracy can learn: in (0, 1], growing with the size of a network.

    It is the share of the largest network's layers and multiply-accumulates.
    """
    layers = [layer for p in range(len(space.positions)) for layer in space.layers_at(p)]
    work = np.array([0.0 if layer is None else float(layer.macs) for layer in layers])
    count = np.array([0.0 if layer is None else 1.0 for layer in layers])
    ends = space.position_index(np.stack([space.biggest.genes, *genes]))
    macs, depth = work[ends].sum(1), count[ends].sum(1)
    return np.asarray((0.8 * macs / macs[0] + 0.1 * depth / depth[0])[1:])


def _predicted(predictor: Predictor, genes: Genes) -> Values:
    values = predictor.predict(genes)
    _expect(
        isinstance(values, np.ndarray) and values.shape == (len(genes),) and values.dtype == np.float64,
        f"predict of {genes.shape} must give float64 of shape ({len(genes)},), but gives "
        f"{getattr(values, 'dtype', type(values))} of shape {getattr(values, 'shape', None)}.",
    )
    return values


def _check_file(predictor: Any, space: SearchSpace, genes: Genes, values: Values) -> None:
    """Write to a file and read back, as `predictors.save` does it; a file of another space is refused."""
    other = copy.copy(space)
    other.fingerprint = "0" * len(space.fingerprint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.npz"
        try:
            save(predictor, space, path)
        except InvalidValueError as error:
            raise AssertionError(f"It cannot be read back: {error}") from error
        again: Any = load(path, space)
        try:
            load(path, other)
        except MismatchError:
            pass
        else:
            raise AssertionError("A predictor of one space must be refused in another one.")
        kinds = [
            array.ravel().tolist() for name, array in read_arrays(path).items() if name.endswith(("kind", "kinds"))
        ]
        own = [kind for named in kinds for kind in named if "." in kind]
        elsewhere = in_fresh_process(_read_and_predicted, path, space, genes, uses=own)
    said = (predictor.metric, predictor.unit)
    for where, one, found in (
        ("", (again.metric, again.unit), _predicted(again, genes)),
        (" in another process", *elsewhere),
    ):
        _expect(said == one, f"Metric and unit {said} come back from a file{where} as {one}.")
        _expect_equal(found, values, f"The predictor read back from a file{where} predicts other values")


def _read_and_predicted(path: Path, space: SearchSpace, genes: Genes) -> tuple[tuple[str, str], Values]:
    predictor: Any = load(path, space)
    return (predictor.metric, predictor.unit), _predicted(predictor, genes)


def _expect(condition: bool, message: str) -> None:
    if not condition:  # not `assert`: the checks also hold under python -O
        raise AssertionError(message)


def _expect_equal(values: Values, expected: Values, message: str, tolerance: float = TOLERANCE) -> None:
    close = np.isclose(values, expected, rtol=tolerance, atol=1e-12)
    if not close.all():
        row = int(np.flatnonzero(~close)[0])
        raise AssertionError(f"{message}: {values[row]} instead of {expected[row]}.")


def _expect_refusal(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except InvalidValueError:
        return
    raise AssertionError(f"{what} must be refused with InvalidValueError, but is not.")
