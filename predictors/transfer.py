"""A new device from a few measurements, given what many known devices need for the same networks.

The logarithms of the known devices' latencies are summed up in principal components over networks. A new device is a
draw from a Gaussian process over networks: its log latency is a constant plus a weighted sum of the components plus
noise (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, section 2.1). How much weight a component
gets, and how noisy devices are, is what the known devices show when each is described by the others. What to measure is
chosen before anything is known of the device: greedily the network that, once measured, leaves the least variance over
all networks (Cohn, "Neural network exploration using optimal experiment design", 1996).

The task: Lee et al., "HELP: Hardware-adaptive efficient latency prediction for NAS via meta-learning", NeurIPS 2021,
arXiv:2106.08630.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.base import Predictor, Values
from predictors.kinds import SAVED
from predictors.physical import at_least, fastest_rate
from predictors.saving import saved_class
from predictors.validation import checked_pairs
from search_spaces.architecture import Genes
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError
from search_spaces.space import SearchSpace

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]

MINIMUM_PAIRS = 3
"""Fewest measured networks: one gives the device's speed, the others how it differs from the known ones."""

CONSTANT = 10.0
"""Prior variance of the constant, in variances of a device: any device is as likely to be fast as slow."""

SMALLEST_WEIGHT, SMALLEST_NOISE, SMALLEST_COMPONENT = 1e-6, 1e-4, 1e-6
"""Floors of prior variances, of noise, and of a component's share in the variance of the first."""

FREEDOM = 4
"""Degrees of freedom of the noise (Student's t): phones have outliers."""

PRIOR_PAIRS = 2.0
"""Weight of the spread of the known devices, in measurements, when that of the new one is estimated."""

SIMULATED, SIMULATED_PAIRS = 1000, 100
"""Networks, and most measurements, in the simulation that scales the expected error."""

MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Coefficients of the weighted components (p,), their covariance (p, p), the noise's variance; all of log(ms)."""

    centre: float
    coefficients: Matrix
    covariance: Matrix
    noise: float


class DeviceTransfer:
    """Latency on a new device from that on known ones; networks are rows of the known devices' milliseconds.

        transfer = DeviceTransfer(known_ms, groups=["titan", "titan", "phone"])   # (networks, devices)
        rows = transfer.choose(10)
        transfer.fit(known_ms[rows], measured_ms)
        transfer.predict(known_ms), transfer.expected_error()

    Args:
        known_ms: latencies of known devices (n, devices), ms: the networks to choose from. They should be like those
            that are predicted later.
        groups: a name per known device; settings of one device (its batch sizes) have one name, so that what a new
            device is like is not learned from settings of the same one. Without it each device is its own group.

    Raises:
        InvalidValueError: latencies that are not finite and positive, wrong shapes, fewer than two groups, or a device
            on which all networks are equally fast.
    """

    def __init__(self, known_ms: ArrayLike, *, groups: Sequence[str] | None = None) -> None:
        known = _positive(known_ms, "Latencies of known devices")
        names = [str(d) for d in range(known.shape[1])] if groups is None else [str(name) for name in groups]
        if len(names) != known.shape[1]:
            raise InvalidValueError(f"There is one group per known device, but got {len(names)} for {known.shape[1]}.")
        if len(set(names)) < 2 or len(known) < 2:
            raise InvalidValueError(
                f"Transfer needs two or more known devices and networks, but got {len(set(names))} and {len(known)}. "
                f"Fit a predictor to measurements of the device alone instead."
            )
        self.known_ms, self.groups = known, names
        logs = np.log(known)
        self._mean, self._scale = logs.mean(0), logs.std(0)
        if (self._scale < 1e-9).any():
            device = int(np.flatnonzero(self._scale < 1e-9)[0])
            raise InvalidValueError(f"Known device {device} is equally fast on all networks. Leave it out.")
        standard = (logs - self._mean) / self._scale
        correlation = standard.T @ standard / len(standard)
        weights, self._noises, self._shares = _prior(correlation, names)
        basis = _components(correlation)
        self._basis, self._weights = basis, np.maximum(weights[: basis.shape[1]], SMALLEST_WEIGHT)
        self._reach = float((self._design(known)[:, 1:] ** 2).sum(1).max())
        self._posterior: _Posterior | None = None
        self._measured: tuple[Matrix, Values] | None = None
        self._calibrations: dict[int, float] = {}

    @property
    def devices(self) -> int:
        """Number of known devices."""
        return int(self.known_ms.shape[1])

    def choose(self, n: int) -> Rows:
        """Rows of `known_ms` to measure on a new device, (n,), the most telling first.

        Raises:
            InvalidValueError: n is less than 1 or more than there are networks.
        """
        if not 1 <= n <= len(self.known_ms):
            raise InvalidValueError(f"Between 1 and {len(self.known_ms)} networks can be chosen, but got {n=}.")
        design = self._pool_design
        noise = float(np.exp(self._shares @ np.log(self._noises)))
        moments = design.T @ design / len(design)
        covariance = np.eye(design.shape[1])
        chosen: list[int] = []
        for _ in range(n):
            covaried = design @ covariance  # (networks, p)
            variance = (covaried * design).sum(1) + noise
            gain = ((covaried @ moments) * covaried).sum(1) / variance  # mean variance that measuring a network removes
            gain[chosen] = -1.0
            best = int(gain.argmax())
            chosen.append(best)
            covariance = covariance - np.outer(covaried[best], covaried[best]) / variance[best]
        return np.array(chosen, np.intp)

    def fit(self, known_ms: ArrayLike, latency_ms: ArrayLike) -> None:
        """Fit to latencies (m,), ms, of networks on the new device; `known_ms` (m, devices): on the known ones.

        Raises:
            InvalidValueError: fewer than three pairs, wrong shapes, latencies that are not finite and positive.
        """
        known, latency = self._checked(known_ms), np.asarray(latency_ms, np.float64)
        if latency.shape != (len(known),):
            raise InvalidValueError(f"There is one latency per network, but got {latency.shape} for {len(known)}.")
        if len(latency) < MINIMUM_PAIRS:
            raise InvalidValueError(f"At least {MINIMUM_PAIRS} measured networks are needed, but got {len(latency)}.")
        if not (np.isfinite(latency).all() and (latency > 0).all()):
            raise InvalidValueError(f"Latencies must be finite and positive, but got {latency.tolist()}.")
        self._posterior = self._fitted(self._design(known), np.log(latency))
        self._measured = known.copy(), latency.copy()

    def predict(self, known_ms: ArrayLike) -> Values:
        """Milliseconds on the new device (n,), of networks by their latencies on the known ones (n, devices)."""
        return self._predict(self._design(self._checked(known_ms)))[0]

    def predict_with_std(self, known_ms: ArrayLike) -> tuple[Values, Values]:
        """Milliseconds and the standard deviation of the error of a measurement, both (n,)."""
        latency, relative = self._predict(self._design(self._checked(known_ms)))
        return latency, latency * relative * self._calibration

    def extrapolates(self, known_ms: ArrayLike) -> NDArray[np.bool_]:
        """Mask (n,) of networks less usual on the known devices than all that could have been chosen."""
        _ = self._state
        return np.asarray((self._design(self._checked(known_ms))[:, 1:] ** 2).sum(1) > self._reach * (1 + 1e-9))

    def expected_error(self) -> float:
        """Median relative error to expect (0.05: 5 %), over the networks that could be chosen.

        It is the posterior's, scaled by how far it was off on the known devices, each taken for a new one.
        """
        relative = self._predict(self._pool_design)[1]
        return float(MEDIAN * np.median(relative) * self._calibration)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs: what was known and what was measured."""
        _ = self._state
        assert self._measured is not None
        known, latency = self._measured
        return {
            "known_ms": self.known_ms,
            "groups": np.array(self.groups),
            "measured_known_ms": known,
            "measured_ms": latency,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read back `to_arrays`: the same numbers fitted again, which takes milliseconds."""
        transfer = cls(arrays["known_ms"], groups=[str(name) for name in arrays["groups"]])
        transfer.fit(arrays["measured_known_ms"], arrays["measured_ms"])
        return transfer

    @property
    def _state(self) -> _Posterior:
        if self._posterior is None:
            raise InvalidValueError("The transfer is not fitted; measure what `choose` gives and call `fit` first.")
        return self._posterior

    def _checked(self, known_ms: ArrayLike) -> Matrix:
        known = _positive(known_ms, "Latencies of known devices")
        if known.shape[1] != self.devices:
            raise InvalidValueError(f"There are {self.devices} known devices, but got latencies on {known.shape[1]}.")
        return known

    def _design(self, known_ms: Matrix) -> Matrix:
        """A constant and the components (n, p), times the prior deviations of their weights."""
        scores = (np.log(known_ms) - self._mean) / self._scale @ self._basis
        constant = np.full((len(known_ms), 1), np.sqrt(CONSTANT))
        return np.concatenate([constant, scores * np.sqrt(self._weights)], 1)

    @cached_property
    def _pool_design(self) -> Matrix:
        return self._design(self.known_ms)

    def _fitted(self, design: Matrix, logs: Values) -> _Posterior:
        """Average over the noise of each known device, by the evidence for it (Rasmussen & Williams, section 5.2)."""
        n, p = design.shape
        centre = float(logs.mean())
        targets, gram = logs - centre, design @ design.T
        prior_square = PRIOR_PAIRS * float((self._scale**2).mean())
        evidence, means, covariances, noises = [], [], [], []
        for noise, share in zip(self._noises, self._shares, strict=True):
            total = gram + noise * np.eye(n)
            square = float(targets @ np.linalg.solve(total, targets)) + prior_square
            determinant = float(np.linalg.slogdet(total)[1])
            evidence.append(np.log(share) - 0.5 * determinant - 0.5 * (n + PRIOR_PAIRS) * np.log(square))
            trust = np.ones(n)
            for _ in range(8):  # expectation maximisation for Student's t noise; it settles in a few rounds
                solved = np.linalg.solve(gram + noise * np.diag(1 / trust), np.column_stack([targets, design]))
                mean = design.T @ solved[:, 0]
                residual = (targets - design @ mean) ** 2
                typical = max(float((residual * trust).mean()), 1e-12)
                trust = (FREEDOM + 1) / (FREEDOM + residual / typical)
            variance = square / (n + PRIOR_PAIRS)
            means.append(mean)
            covariances.append(variance * (np.eye(p) - design.T @ solved[:, 1:]))
            noises.append(variance * noise)
        chance = np.exp(np.array(evidence) - max(evidence))
        chance /= chance.sum()
        coefficients = chance @ np.array(means)
        apart = np.array(means) - coefficients
        covariance = np.einsum("k,kij->ij", chance, np.array(covariances)) + (apart * chance[:, None]).T @ apart
        return _Posterior(centre, coefficients, covariance, float(chance @ np.array(noises)))

    def _predict(self, design: Matrix) -> tuple[Values, Values]:
        """Milliseconds and the relative deviation of a measurement from them, as the posterior has it."""
        state = self._state
        variance = np.maximum(((design @ state.covariance) * design).sum(1), 0) + state.noise
        return np.asarray(np.exp(design @ state.coefficients + state.centre)), np.asarray(np.sqrt(variance))

    @property
    def _calibration(self) -> float:
        """Error over expected error of the same number of measurements on known devices, each unknown to the rest."""
        assert self._measured is not None
        n = min(len(self._measured[1]), SIMULATED_PAIRS, len(self.known_ms) // 2)
        if len(set(self.groups)) < 3 or n < MINIMUM_PAIRS:
            return 1.0
        if n not in self._calibrations:
            some = np.unique(np.linspace(0, len(self.known_ms) - 1, SIMULATED).astype(int))
            known, names = self.known_ms[some], np.array(self.groups)
            ratios = []
            for name in dict.fromkeys(self.groups):
                out = names == name
                rest = DeviceTransfer(known[:, ~out], groups=names[~out].tolist())
                rows = rest.choose(n)
                log_ratios = []
                for truth in known[:, out].T:
                    rest.fit(rest.known_ms[rows], truth[rows])
                    latency, relative = rest._predict(rest._pool_design)
                    error = np.median(np.abs(latency / truth - 1))
                    log_ratios.append(np.log(max(error, 1e-6) / (MEDIAN * np.median(relative))))
                ratios.append(np.mean(log_ratios))
            self._calibrations[n] = float(np.exp(np.mean(ratios)))
        return self._calibrations[n]


class TransferredLatency:
    """`DeviceTransfer` on the networks of a space: the known devices are predictors fitted on them.

        predictor = TransferredLatency(space, [lookup_of_phone, lookup_of_gpu, lookup_of_cpu])
        genes = predictor.choose(10)
        predictor.fit(genes, measured_ms)

    Args:
        space: whose architectures it predicts.
        known: a predictor of latency in ms per known device.
        groups: as for `DeviceTransfer`.
        pool: genes (n, choices) of the networks to choose from; without it ``size`` random ones.
        size: number of random networks.
        seed: of the random networks.

    Raises:
        InvalidValueError: what `DeviceTransfer` refuses, or a known predictor of something else than ms.
    """

    metric = "latency"
    unit = "ms"

    def __init__(
        self,
        space: SearchSpace,
        known: Sequence[Predictor],
        *,
        groups: Sequence[str] | None = None,
        pool: Genes | None = None,
        size: int = 2000,
        seed: int = 0,
    ) -> None:
        other = [predictor.unit for predictor in known if predictor.unit != "ms"]
        if other or not known:
            raise InvalidValueError(f"Known devices are predictors of latency in ms, but got {other or 'none'}.")
        self.space, self.known = space, tuple(known)
        sampled = space.sample(size, np.random.default_rng(seed)) if pool is None else space.validate(pool)
        self.pool = np.unique(space.canonical(sampled), axis=0)
        self.transfer = DeviceTransfer(self._known_ms(self.pool), groups=groups)
        self._pairs: tuple[Genes, Values] | None = None
        self._rate = math.inf

    def choose(self, n: int) -> Genes:
        """Networks (n, choices) to measure on a new device; see `DeviceTransfer.choose`."""
        return np.asarray(self.pool[self.transfer.choose(n)])

    def fit(self, genes: Genes, values: Values) -> None:
        """Fit to latencies (m,), ms, of genes (m, choices) on the new device.

        Raises:
            InvalidValueError: fewer than three pairs, wrong shapes, latencies that are not finite and positive.
        """
        genes, values = checked_pairs(self.space, genes, values, minimum=MINIMUM_PAIRS, positive=True)
        self.transfer.fit(self._known_ms(genes), values)
        self._pairs = genes, values.copy()
        self._rate = fastest_rate(self.space, genes, values)

    def predict(self, genes: Genes) -> Values:
        """Milliseconds of canonical genes (n, choices), shape (n,); they keep the bound of `predictors.physical`."""
        return self._bounded(genes, self.transfer.predict(self._known_ms(genes)))

    def predict_with_std(self, genes: Genes) -> tuple[Values, Values]:
        """Milliseconds and the standard deviation of the error of a measurement, both (n,)."""
        latency, std = self.transfer.predict_with_std(self._known_ms(genes))
        return self._bounded(genes, latency), std

    def _bounded(self, genes: Genes, latency: Values) -> Values:
        return at_least(self.space, genes, latency, self._rate)

    def extrapolates(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask (n,) of networks less usual on the known devices than all that could have been chosen."""
        return self.transfer.extrapolates(self._known_ms(genes))

    def expected_error(self) -> float:
        """Median relative error to expect (0.05: 5 %), over random networks."""
        return self.transfer.expected_error()

    def _known_ms(self, genes: Genes) -> Matrix:
        return np.column_stack([predictor.predict(genes) for predictor in self.known])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that `from_arrays` needs.

        Raises:
            InvalidValueError: not fitted, or a known predictor that cannot be saved.
        """
        if self._pairs is None:
            raise InvalidValueError("The transfer is not fitted; measure what `choose` gives and call `fit` first.")
        arrays: dict[str, NDArray[Any]] = {
            "groups": np.array(self.transfer.groups),
            "pool": self.pool,
            "genes": self._pairs[0],
            "values": self._pairs[1],
        }
        for d, predictor in enumerate(self.known):
            if not hasattr(predictor, "to_arrays"):
                kind = type(predictor).__name__
                raise InvalidValueError(f"Known device {d} is a {kind}, which cannot be saved: it has no `to_arrays`.")
            arrays |= {f"known_{d}_{name}": array for name, array in predictor.to_arrays().items()}
        kinds = np.array([trust.path_of(type(predictor), SAVED) for predictor in self.known])
        return {"kinds": kinds, **arrays}

    @classmethod
    def from_arrays(cls, space: SearchSpace, arrays: dict[str, NDArray[Any]]) -> TransferredLatency:
        """Read back `to_arrays`: the same numbers fitted again, which takes milliseconds."""
        known: list[Any] = []
        for d, kind in enumerate(arrays["kinds"]):
            prefix = f"known_{d}_"
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            known.append(saved_class(f"Known device {d}", str(kind)).from_arrays(space, own))
        predictor = cls(space, known, groups=[str(name) for name in arrays["groups"]], pool=arrays["pool"])
        predictor.fit(arrays["genes"], arrays["values"])
        return predictor


def _positive(known_ms: ArrayLike, what: str) -> Matrix:
    known = np.asarray(known_ms, np.float64)
    if known.ndim != 2:
        raise InvalidValueError(f"{what} have the shape (networks, devices), but got {known.shape}.")
    wrong = ~(np.isfinite(known) & (known > 0))
    if wrong.any():
        row, device = (int(i) for i in np.argwhere(wrong)[0])
        raise InvalidValueError(
            f"{what} must be finite and positive, but network {row} has {known[row, device]} on device {device}."
        )
    return known


def _components(correlation: Matrix) -> Matrix:
    """Principal components (devices, r) of standardised latencies, largest first: their scores have variance 1."""
    values, vectors = np.linalg.eigh(correlation)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > SMALLEST_COMPONENT * values[0]
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]))


def _prior(correlation: Matrix, groups: Sequence[str]) -> tuple[Matrix, Matrix, Matrix]:
    """Prior of a device from the others: each group in turn is described by the components of the rest.

    Returns:
        Variance of the weight of each component (devices,), 0 for those that the rest never has; noise of each device
        (devices,), the share of its variance that the others do not explain; the share of each device (devices,), equal
        for all groups.
    """
    names = np.array(groups)
    explained, noise, share = np.zeros((len(names), len(names))), np.ones(len(names)), np.ones(len(names))
    for name in dict.fromkeys(groups):
        out = names == name
        basis = _components(correlation[np.ix_(~out, ~out)])
        squares = (correlation[np.ix_(out, ~out)] @ basis) ** 2  # (devices of the group, r): squared correlations
        explained[out, : basis.shape[1]] = squares
        noise[out] = np.maximum(1 - squares.sum(1), SMALLEST_NOISE)
        share[out] /= out.sum()
    share /= share.sum()
    return share @ explained, noise, share
