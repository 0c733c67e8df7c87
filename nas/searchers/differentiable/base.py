"""Differentiable search: architecture logits are trained beside the weights of a relaxed supernet.

What all methods share; each of them is a file of `nas/searchers` that derives from `GradientSearch` and changes how
choices are mixed or how a step goes. A differentiable searcher trains in its first `ask` and hands over what it found:
the network that it stands for, networks drawn from the last distribution, and the most probable network after every
epoch. These are evaluated like any other searcher's.

Latency in the loss is that of the problem's latency objective, whose predictor must be `Differentiable`: the exact mean
over the networks that the probabilities of the choices give. On several devices at once the one counts that is farthest
beyond its limit.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from nas.core import processes
from nas.core.loop import Loop, Losses, check_device
from nas.core.problem import Objective, Problem, Values, identity_of, limits_of, values_text
from nas.core.schedule import left_of_rate
from nas.core.searcher import State
from predictors.base import Differentiable
from search_spaces.architecture import Genes
from search_spaces.base.errors import InfeasibleError, InvalidValueError, MismatchError
from search_spaces.base.names import dotted
from search_spaces.metric import number_text, with_unit

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import Data
    from nas.supernet.relaxed import Mix as Mix
    from nas.supernet.relaxed import RelaxedSupernet
    from nas.supernet.relaxed import Runner as Runner

log = logging.getLogger(__name__)

TARGET_TOLERANCE = 0.05
"""Share of its limit by which a latency may end below it before that is said."""

SKIP_SHARE = 0.5
"""Share of searched positions that end without an operation above which a search counts as collapsed."""

PROPORTIONAL, INTEGRAL = 5.0, 20.0
"""Gains with which the strength of the latency follows the excess over the limit: at once, and summed up over a whole
search."""

IMPOSSIBLE = -1e4
"""Logit of a value that only leads to networks that the device cannot run: its probability is exactly 0."""

DRAWS, BEAM = 2000, 64
"""Networks drawn to choose from, and how many of these are improved at a time, when probabilities become a network."""

Batch = tuple["Tensor", Any]
"""Images (B, C, H, W) and their targets, in the form of the task."""

Parts = dict[str, Any]
"""Name -> something with `state_dict` and `load_state_dict`."""

Relaxed = Callable[[Mapping[str, "Tensor"]], "Tensor"]
"""Probabilities of the values of every choice of the space -> mean prediction, a scalar; see `Differentiable`."""


@dataclass(frozen=True)
class LatencyLoss:
    """Settings of how latency enters the loss.

    E is the mean latency over the networks that the logits stand for, as a share of the latency limit, or of what it
    was before the search where there is no limit. Where there is one, the strength of the latency (the weight, of
    ``power`` the exponent) is only what it starts from. It then rises while E is above the limit and falls while it is
    below, by dual ascent (Luo et al., "You only search once", DAC 2022, arXiv:2208.14446) with a proportional term that
    damps it (Stooke et al., "Responsive safety in reinforcement learning by PID Lagrangian methods", ICML 2020,
    arXiv:2007.03964), so that networks of just that latency come out.

    Args:
        form: ``none``; ``linear``: CE + weight * E (Cai et al., "ProxylessNAS", ICLR 2019, equation 5); ``power``:
            CE * weight * E ** exponent (Wu et al., "FBNet", CVPR 2019, equation 2, in the form of its code);
            ``hinge``: CE + weight * max(0, E - 1), so that nothing pulls towards the limit from below.
        weight: see ``form``.
        exponent: of ``power``.
    """

    form: Literal["none", "linear", "power", "hinge"] = "linear"
    weight: float = 0.1
    exponent: float = 0.6

    def __post_init__(self) -> None:
        if self.form not in ("none", "linear", "power", "hinge"):
            raise InvalidValueError(f"`latency.form` must be none, linear, power or hinge, but got {self.form!r}.")
        if not self.weight > 0 or not self.exponent > 0:
            raise InvalidValueError(
                f"`latency.weight` and `latency.exponent` must be > 0, but got {self.weight}, {self.exponent}."
            )


@dataclass(frozen=True)
class GradientSearch:
    """Settings of all differentiable searchers.

    Args:
        data: images to train on; half of the training part trains weights, the other half logits.
        folder: for the checkpoint; None: a broken search starts anew.
        fixed: choices that are not searched, with their values: the resolution, say.
        epochs: passes over the images.
        warm_up: epochs at the start that train weights alone.
        images: at most as many training images; None: all.
        batch_size: images per step.
        learning_rate: of the weights (SGD with momentum 0.9), falling to 0 along a cosine.
        weight_decay: of the weights.
        architecture_rate: of the logits (Adam, betas 0.5 and 0.999, as in DARTS).
        architecture_decay: weight decay of the logits.
        latency: how it enters the loss.
        offered: networks drawn from the last distribution, beside the answer and the most probable of each epoch.
        threads: of the CPU; None: as many as torch would take. Only a fixed number gives the same result, bit for bit,
            on any number of cores.
        seed: of weights, images and draws.
        device: where weights are trained, ``cpu`` or ``cuda``; logits are on the host.
        precision: of the computation, ``float32`` or ``bfloat16``; weights stay float32.
        workers: processes that load images ahead, where they are not in memory.
    """

    data: Data
    folder: Path | None = field(default=None, repr=False)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 20
    warm_up: int = 2
    images: int | None = None
    batch_size: int = 64
    learning_rate: float = 0.025
    weight_decay: float = 3e-4
    architecture_rate: float = 0.05
    architecture_decay: float = 1e-3
    latency: LatencyLoss = field(default_factory=LatencyLoss)
    offered: int = 16
    threads: int | None = 1
    seed: int = 0
    device: str = field(default="cpu", repr=False)
    precision: Literal["float32", "bfloat16"] = field(default="float32", repr=False)
    workers: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed", dotted(self.fixed))
        for key, least in (
            ("epochs", 1),
            ("warm_up", 0),
            ("batch_size", 2),
            ("offered", 0),
            ("seed", 0),
            ("workers", 0),
        ):
            if getattr(self, key) < least:
                raise InvalidValueError(f"`{key}` must be >= {least}, but got {getattr(self, key)}.")
        if self.precision not in ("float32", "bfloat16"):  # float16 needs scaled losses, which not all methods have
            raise InvalidValueError(f"`precision` must be float32 or bfloat16, but got {self.precision!r}.")
        if self.device != "cpu":  # which is always there, and torch need not be loaded to see it
            check_device(self.device, "searcher.device")
        if self.threads is not None and self.threads < 1:
            raise InvalidValueError(f"`threads` must be >= 1 or null, but got {self.threads}.")
        if self.warm_up >= self.epochs:
            raise InvalidValueError(f"`warm_up` must be below `epochs`, but got {self.warm_up} of {self.epochs}.")
        for key in ("learning_rate", "architecture_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise InvalidValueError(f"`{key}` must be a positive number, but got {getattr(self, key)}.")
        for key in ("weight_decay", "architecture_decay"):
            if not 0 <= getattr(self, key) < math.inf:
                raise InvalidValueError(f"`{key}` must be a number >= 0, but got {getattr(self, key)}.")
        if self.images is not None and self.images < 2 * self.batch_size:
            raise InvalidValueError(f"`images` must be >= 2 batches, but got {self.images}.")
        if isinstance(self.latency, Mapping):
            known = {one.name for one in dataclasses.fields(LatencyLoss)}
            if unknown := set(self.latency) - known:
                raise InvalidValueError(f"`latency` has {', '.join(sorted(known))}, but got {sorted(unknown)[0]!r}.")
            object.__setattr__(self, "latency", LatencyLoss(**self.latency))

    # -- the searcher --------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        return 1 + self.offered + self.epochs

    def init(self, problem: Problem) -> State:
        return {"asked": np.array(False)}

    def ask(self, problem: Problem, state: State, n: int, rng: np.random.Generator) -> Genes:
        if state["asked"]:
            return np.zeros((0, len(problem.space.choices)), np.int16)
        run = GradientRun(problem, self)
        run.train()
        return run.candidates()

    def tell(self, problem: Problem, state: State, genes: Genes, values: Values) -> State:
        return {"asked": np.array(True)}

    # -- what a method changes -----------------------------------------------------------------------------------------

    def mix(self) -> Mix:
        """Function that mixes the outputs of a position's layers."""
        from nas.supernet.relaxed import weighted_sum

        return weighted_sum

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weights of the values of each searched choice for one step; ``progress`` goes from 0 to 1 over the search."""
        return {name: values.softmax(0) for name, values in logits.items()}

    def probabilities(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities that the logits say once trained, and that latency is the mean over."""
        return {name: values.softmax(0) for name, values in logits.items()}

    def extra(self, run: GradientRun) -> Parts:
        """Parts that a method trains or keeps beside weights and logits. They are found again in ``run.extra``, and the
        checkpoint has them."""
        return {}

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> Tensor:
        """One update of logits (unless still warming up) and one of weights; gives the training loss, a scalar."""
        if searching:
            run.descend_logits(run.loss(validation, self.mixture(run, run.logits, progress)))
        return run.descend_weights(run.task_loss(train, detached(self.mixture(run, run.logits, progress))))

    def rate(self, done: float) -> float:
        """Learning rate of the weights after a share of all epochs."""
        return self.learning_rate * left_of_rate("cosine", done)

    def latency_model(self, problem: Problem, objective: Objective) -> Relaxed:
        """Function that gives the mean of a latency objective under probabilities.

        Raises:
            InvalidValueError: its predictor has none.
        """
        predictor = objective.predictor
        if not isinstance(predictor, Differentiable):
            raise InvalidValueError(
                f"The latency predictor {type(predictor).__name__} has no mean over probabilities. Fit one that has "
                "with `latency=lookup`, learn one with `searcher=dnas`, or set `searcher.latency.form=none`."
            )
        return predictor.relaxed


def detached(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, without gradients."""
    return {name: values.detach() for name, values in weights.items()}


def check_temperatures(first: float, last: float) -> None:
    """Temperature of draws that get harder during a search.

    Raises:
        InvalidValueError: they do not fall, or not to a positive number.
    """
    if not 0 < last <= first:
        raise InvalidValueError(
            f"`final_temperature` must be > 0 and at most `temperature`, but got {last} and {first}."
        )


def gumbel(values: Tensor, run: GradientRun) -> Tensor:
    """Draws from the standard Gumbel distribution, as many as there are values."""
    import torch

    uniform = torch.rand(values.shape, generator=run.generator).clamp(1e-10, 1 - 1e-7)
    return -(-uniform.log()).log()


@dataclass(frozen=True)
class EpochRecord:
    """Record of one epoch. ``latency`` is E[lat] in the predictor's unit, NaN where it is not in the loss; ``entropy``
    is the mean over choices, as a share of its largest; ``genes`` are those of the most probable network."""

    epoch: int
    loss: float
    latency: float
    entropy: float
    genes: tuple[int, ...]


class GradientRun(Loop[EpochRecord]):
    """One differentiable search: the relaxed supernet, the logits, their optimisers. Weights and images are on the
    device; logits, and what latency is computed of, are on the host.

    Args:
        problem: gives the space and, where one of its objectives is a latency, the latency of the loss.
        method: the searcher.

    Raises:
        InvalidValueError: the space has a position that cannot be relaxed, or the latency predictor no mean; or there
            are several processes.
        InfeasibleError: the latency limit lies below the fastest network, or no network meets all limits.
    """

    remedy = "Lower `searcher.learning_rate` or `searcher.architecture_rate`."
    anew = "search"

    def __init__(self, problem: Problem, method: GradientSearch) -> None:
        import torch

        from nas.supernet.relaxed import RelaxedSupernet
        from nas.supernet.supernet import check_task, input_resolution
        from nas.tasks import Classification

        problem.check_feasible()
        if processes.several():
            raise InvalidValueError("A differentiable search is one process; `torchrun` is for `nas train` alone.")
        self.subject = name = type(method).__name__
        path = None if method.folder is None else method.folder / f"{name}.pt"
        super().__init__(problem.space, name, method.epochs, path, device=method.device, precision=method.precision)
        self.problem, self.method = problem, method
        self.fixed = {**self.space.fixed, **method.fixed}
        if self.fixed != {**method.fixed, **self.space.fixed}:
            raise InvalidValueError(f"`search.fixed` {self.space.fixed} and `searcher.fixed` {method.fixed} differ.")
        check_task(self.space, method.data)
        if not isinstance(method.data.task, Classification):
            raise MismatchError(
                f"Searchers that train a mixture of networks do so for classes, but the task of data "
                f"{method.data.name!r} is another one ({method.data.task.title}). Choose another `searcher`."
            )
        self.relaxed: RelaxedSupernet = RelaxedSupernet(
            self.space, fixed=self.fixed, seed=method.seed, mix=method.mix()
        )
        self.relaxed.train().to(self.device)
        if not self.relaxed.searched:
            raise InvalidValueError("`fixed` fixes every choice, so there is nothing to search.")
        self.logits = {
            name: torch.zeros(len(self.space.choices[self.space.index[name]].values), requires_grad=True)
            for name in self.relaxed.searched
        }
        self.weight_optimiser = torch.optim.SGD(
            self.relaxed.parameters(), lr=method.learning_rate, momentum=0.9, weight_decay=method.weight_decay
        )
        self.logit_optimiser = torch.optim.Adam(
            list(self.logits.values()),
            lr=method.architecture_rate,
            betas=(0.5, 0.999),
            weight_decay=method.architecture_decay,
        )
        self.generator = torch.Generator()
        self.multiplier = 0.0
        self._impossible = {name: torch.zeros(len(values), dtype=torch.bool) for name, values in self.logits.items()}
        self._latencies = _latencies(problem)
        used = [] if method.latency.form == "none" else self._latencies
        self._models = [method.latency_model(problem, objective) for objective in used]
        self._exclude_impossible()
        start = [float(mean.detach()) for mean in self._means(self.probabilities())]
        self._references = [o.bound or mean for o, mean in zip(used, start, strict=True)]
        self._check_limits()
        images = len(method.data.train)
        count = images if method.images is None else min(method.images, images)
        self._order = torch.randperm(images, generator=torch.Generator().manual_seed(method.seed))[:count]
        self._resolution = input_resolution(self.space, self.relaxed.architecture(self.probabilities()))
        self._steps = max(1, count // 2 // method.batch_size)
        self.extra = method.extra(self)

    # -- latency -------------------------------------------------------------------------------------------------------

    @property
    def target(self) -> float | None:
        """The latency limit; of several devices the first one's."""
        return self._latencies[0].bound if self._latencies else None

    def probabilities(self) -> dict[str, Tensor]:
        """Probabilities of the values of each searched choice."""
        return self.method.probabilities(self.logits)

    def _means(self, probabilities: Mapping[str, Tensor]) -> list[Tensor]:
        whole = self.relaxed.complete(probabilities)
        return [model(whole) for model in self._models]

    def expected_latency(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """E[lat] under the probabilities, in the predictor's unit, a scalar; of several devices the first one's."""
        return self._means(probabilities)[0]

    def latency_share(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """E[lat] as a share of its limit, or of what it was at first; of several devices the largest share."""
        import torch

        means = self._means(probabilities)
        return torch.stack([mean / reference for mean, reference in zip(means, self._references, strict=True)]).max()

    def with_latency(self, error: Tensor, probabilities: Mapping[str, Tensor] | None = None) -> Tensor:
        """Add latency to an error, see `LatencyLoss`: its mean under given probabilities, or those of the logits."""
        if not self._models:
            return error
        settings = self.method.latency
        share = self.latency_share(self.probabilities() if probabilities is None else probabilities)
        change = 0.0 if self.target is None else self._steer(float(share.detach()) - 1)
        if settings.form == "linear":
            return error + (settings.weight + change) * share
        if settings.form == "power":
            return error * settings.weight * share ** (settings.exponent + change)
        return error + max(0.0, settings.weight + change) * (share - 1).clamp_min(0)

    def _steer(self, excess: float) -> float:
        """Change of the latency's strength at one step."""
        steps = (self.method.epochs - self.method.warm_up) * self._steps
        self.multiplier += INTEGRAL / steps * excess
        return self.multiplier + PROPORTIONAL * excess

    def _exclude_impossible(self) -> None:
        """Give values that lead to layers that the device cannot run the probability 0, the worst ones first."""
        rng = np.random.default_rng(self.method.seed)
        for _ in range(int(self.space.cardinalities.sum())):
            if all(bool(mean.isfinite()) for mean in self._means(self.probabilities())):
                return
            genes = self.relaxed.sample(self.probabilities(), DRAWS, rng)
            fails = np.any([np.isinf(o.predictor.predict(genes)) for o in self._latencies], 0)
            active = self.space.active(genes)
            found = []
            for name, impossible in self._impossible.items():
                column = self.space.index[name]
                left = np.flatnonzero(~impossible.numpy()).tolist()
                for gene in left if len(left) > 1 else []:
                    rows = active[:, column] & (genes[:, column] == gene)
                    if rows.any():
                        found.append((float(fails[rows].mean()), name, gene))
            share, name, value = max(found, key=lambda one: one[0], default=(0.0, "", 0))
            if share == 0:
                break
            log.warning(
                "%s: %s=%s is left out, as the device cannot run %.0f %% of the networks that have it",
                *(type(self.method).__name__, name, self.space.choices[self.space.index[name]].values[value]),
                100 * share,
            )
            self._impossible[name][value] = True
            self._mask()
        raise InfeasibleError(
            "The device cannot run some of the networks, and the choices that lead to them could not be found. Fix "
            "choices with `search.fixed`, or set `searcher.latency.form=none`."
        )

    def _check_limits(self) -> None:
        """Refuse what `Problem.check_feasible` cannot see: limits that no network with the fixed choices meets."""
        nearest = self.answer()[None]
        if self._violations(nearest)[0] == 0:
            return
        broken = [o for o in self.problem.objectives if o.limit is not None and not o.costly]
        limits = ", ".join(limit.stated for limit in limits_of(broken))
        found = values_text(broken, [float(o.predictor.predict(nearest)[0]) for o in broken])
        raise InfeasibleError(
            f"No network with {self.fixed} that meets {limits} was found; the nearest has {found}. "
            "Loosen a limit, or fix other values with `search.fixed`."
        )

    def _mask(self) -> None:
        import torch

        with torch.no_grad():
            for name, impossible in self._impossible.items():
                self.logits[name][impossible] = IMPOSSIBLE

    # -- the loss and its steps ----------------------------------------------------------------------------------------

    def task_loss(self, batch: Batch, weights: Mapping[str, Tensor], supernet: RelaxedSupernet | None = None) -> Tensor:
        """Loss of a mixture by the task of the data, a scalar.

        Args:
            batch: on the device.
            weights: of the values of each searched choice.
            supernet: whose weights it has; None: the search's own.
        """
        images, targets = batch
        with self.fabric.autocast():
            return self.method.data.task.loss(
                (self.relaxed if supernet is None else supernet)(images, weights), targets
            )

    def loss(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """Loss by the task, and latency, a scalar."""
        return self.with_latency(self.task_loss(batch, weights))

    def descend_logits(self, loss: Tensor) -> None:
        """One step of the logits along the gradient of a loss."""
        import torch

        self._finite(loss, "loss")
        logits = list(self.logits.values())
        gradients = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
        self.apply_logit_gradients(dict(zip(self.logits, gradients, strict=True)))

    def apply_logit_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of the logits along given gradients."""
        for name, values in self.logits.items():
            values.grad = gradients[name]
        self.logit_optimiser.step()
        self._mask()
        for name, values in self.logits.items():
            self._finite(values, f"logits of {name}")

    def descend_weights(self, loss: Tensor) -> Tensor:
        """One step of the weights; gives the loss."""
        from torch import nn

        self._finite(loss, "loss")
        self.weight_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.relaxed.parameters(), 5.0)
        self.weight_optimiser.step()
        return loss.detach()

    def _finite(self, values: Tensor, what: str) -> None:
        """Refuse what is not finite, on the host; on a GPU the loop looks at the losses now and then."""
        if values.device.type == "cpu" and not bool(values.detach().isfinite().all()):
            raise self.diverged(what)

    # -- epochs --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the epochs that the checkpoint lacks.

        Raises:
            NasError: the loss or the logits are no longer finite; the last checkpoint is kept.
        """
        from search_spaces.base.threads import torch_threads

        with torch_threads(self.method.threads):
            self.finish()

    def epoch(self, number: int) -> EpochRecord:
        import torch

        method = self.method
        rng = np.random.default_rng([method.seed, number])
        self.generator.manual_seed(int(rng.integers(2**62)))
        half, steps = len(self._order) // 2, self._steps
        weights_order = torch.randperm(half, generator=self.generator).tensor_split(steps)
        logits_order = (torch.randperm(len(self._order) - half, generator=self.generator) + half).tensor_split(steps)
        losses = Losses(self.device)
        for step, (ours, theirs) in enumerate(self._batches(weights_order, logits_order)):
            for group in self.weight_optimiser.param_groups:
                group["lr"] = method.rate((number + step / steps) / method.epochs)
            searching = number >= method.warm_up
            progressed = max(0.0, (number - method.warm_up + step / steps) / (method.epochs - method.warm_up))
            losses.add(method.step(self, ours, theirs, progressed, searching))
            if (step + 1) % self.looks_every == 0 or step + 1 == steps:
                self.check(losses)
        probabilities = detached(self.probabilities())
        latency = float(self.expected_latency(probabilities)) if self._models else math.nan
        entropies = [
            float(-(p * p.clamp_min(1e-12).log()).sum()) / math.log(len(p))
            for p in probabilities.values()
            if len(p) > 1
        ]
        genes = tuple(int(gene) for gene in self.relaxed.architecture(probabilities).genes)
        return EpochRecord(number + 1, losses.mean(), latency, float(np.mean(entropies or [0.0])), genes)

    def _batches(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Iterator[tuple[Batch, Batch]]:
        """Batches for the weights and for the logits, given their rows in the order of the search; loaded together."""
        import torch

        from nas.data import batches, rows_of

        rows = [self._order[torch.cat(pair)] for pair in zip(ours, theirs, strict=True)]
        loaded = batches(self.method.data.train, rows, workers=self.method.workers)
        for first, (images, targets) in zip(ours, loaded, strict=True):
            cut, numbers = len(first), torch.arange(len(images))
            yield (
                self.prepared(images[:cut], rows_of(targets, numbers[:cut])),
                self.prepared(images[cut:], rows_of(targets, numbers[cut:])),
            )

    def prepared(self, images: Tensor, targets: Any) -> Batch:
        """A batch on the device, at the resolution of the networks."""
        from nas.data import resize, to_device

        images, targets = to_device((images, targets), self.device)
        return resize(images, self._resolution), targets

    # -- what is found -------------------------------------------------------------------------------------------------

    def candidates(self) -> Genes:
        """The answer, then draws from the distribution that keep the limits, then the most probable network of each
        epoch, the last one first. Says where the search collapsed or missed its latency."""
        probabilities = self.probabilities()
        answer = self.answer()
        rng = np.random.default_rng([self.method.seed, self.method.epochs])
        drawn = self.relaxed.sample(probabilities, DRAWS, rng)
        self._say_what_is_wrong(answer, drawn)
        _, first = np.unique(drawn, axis=0, return_index=True)
        drawn = drawn[np.sort(first)]
        drawn = drawn[self._violations(drawn) == 0][: self.method.offered]
        path = np.array([record.genes for record in reversed(self.records)], np.int16)
        return np.concatenate([answer[None], drawn, path.reshape(-1, drawn.shape[1])])

    def answer(self) -> Genes:
        """The network that the probabilities stand for, (choices,).

        Each choice takes its most probable value, if the limits allow it and the latency comes within
        `TARGET_TOLERANCE` of its limit, where that is at all in the way. Otherwise it is the network that does, or
        nearly, at the least loss of log-probability; found by a beam search over changes of one choice.
        """
        probabilities = detached(self.probabilities())
        whole = self.relaxed.complete(probabilities)
        best = np.array([int(whole[choice.name].argmax()) for choice in self.space.choices], np.int16)
        loss = np.zeros((len(best), int(self.space.cardinalities.max())))
        for column, choice in enumerate(self.space.choices):
            logs = whole[choice.name].double().clamp_min(1e-30).log()
            loss[column, : len(logs)] = logs.max() - logs
        rng = np.random.default_rng([self.method.seed, self.method.epochs])
        ends = np.stack([best, np.where(self._is_searched(), self.space.cardinalities - 1, best)])
        pool = np.concatenate([self.space.canonical(ends), self.relaxed.sample(probabilities, DRAWS, rng)])
        binding = bool((self._shares(pool) > 1).any())

        def too_fast(genes: Genes) -> Values:
            short = 1 - TARGET_TOLERANCE - self._shares(genes)
            return np.maximum(short, 0) if binding else np.zeros(len(genes))

        front = pool[:1]
        if self._violations(front)[0] == too_fast(front)[0] == 0:
            return cast(Genes, front[0])
        while True:
            pool = np.unique(pool, axis=0)
            active = self.space.active(pool)
            lost = np.where(active, loss[np.arange(len(best)), pool], 0).sum(1)
            order = np.lexsort((lost, too_fast(pool), self._violations(pool)))[:BEAM]
            if np.array_equal(pool[order], front):
                return cast(Genes, front[0])
            front = pool[order]
            pool = np.concatenate([front, self._neighbours(np.where(active[order], front, best))])

    def _neighbours(self, genes: Genes) -> Genes:
        """Canonical networks that differ in one searched choice, (m, choices)."""
        found = []
        for column in np.flatnonzero(self._is_searched()):
            for value in range(int(self.space.cardinalities[column])):
                changed = genes.copy()
                changed[:, column] = value
                found.append(changed)
        return self.space.canonical(np.concatenate(found))

    def _is_searched(self) -> NDArray[np.bool_]:
        return np.array([choice.name in self.logits for choice in self.space.choices], np.bool_)

    def _violations(self, genes: Genes) -> Values:
        """`Problem.violations`, without what is costly to know, (n,); inf for a network that wastes operations: what is
        of no use must not make up for latency that is missing to the limit."""
        values = np.empty((len(genes), len(self.problem.objectives)))
        for column, objective in enumerate(self.problem.objectives):
            known = not objective.costly and (objective.limit is not None or objective.predictor.metric == "latency")
            values[:, column] = objective.predictor.predict(genes) if known else (objective.bound or 0.0)
        return np.where(self.space.wasteful(genes), np.inf, self.problem.violations(values))

    def _shares(self, genes: Genes) -> Values:
        """Latencies as shares of their limits, of several devices the largest, (n,); 1 where there is no limit."""
        limited = [o for o in self._latencies if o.limit is not None]
        shares = [o.predictor.predict(genes) / o.bound for o in limited if o.bound is not None]
        return np.max(shares, 0) if shares else np.ones(len(genes))

    def skipped(self) -> float:
        """Share of what is searched that the most probable network leaves out: blocks that are not there, and edges of
        cells without an operation, with a skip connection, or on no path to the output."""
        from search_spaces.architecture import Architecture
        from search_spaces.cells import Cell

        found = self.relaxed.architecture(self.probabilities())
        largest = np.where(self._is_searched(), self.space.cardinalities - 1, found.genes)
        most = self.space.lower(Architecture(self.space, self.space.canonical(largest[None].astype(np.int16))[0]))
        layers = self.space.lower(found)
        kept = total = 0.0
        for place in (place for place in self.relaxed.places if place.is_searched):
            layer = layers.get(place.name)
            total += place.cell is not None or place.name in most
            kept += layer.kept_share if isinstance(layer, Cell) else layer is not None
        return 1 - kept / max(total, 1)

    def _say_what_is_wrong(self, answer: Genes, drawn: Genes) -> None:
        title = type(self.method).__name__
        room = self.target is None or float(self._shares(drawn).mean()) < 1 - TARGET_TOLERANCE
        wasteful = self.space.wasteful(self.relaxed.architecture(self.probabilities()).genes[None])[0]
        if (room or wasteful) and (share := self.skipped()) > SKIP_SHARE:
            log.warning(
                "%s: collapsed: %.0f %% of what is searched ended as skip connections or unused, which no latency "
                "limit asks for. Train weights longer before logits (`searcher.warm_up`), or choose another method.",
                *(title, 100 * share),
            )
        limited = next(iter(self._latencies), None)
        if limited is None or limited.limit is None:
            return
        reached = float(self._shares(answer[None])[0])
        if not 1 - TARGET_TOLERANCE <= reached <= 1:
            log.warning(
                "%s: the network found takes %.4g %s, %+.1f %% off the limit `%s`: no network nearer to it was found.",
                *(title, float(limited.predictor.predict(answer[None])[0]), limited.metric.unit),
                *(100 * (reached - 1), limited.limit.setting),
            )

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def _identity(self) -> str:
        probe = self.space.sample(16, np.random.default_rng(0))
        latencies = [(identity_of(o), o.predictor.predict(probe).tolist()) for o in self._latencies]
        precision = "" if self.method.precision == "float32" else f" {self.method.precision}"
        return f"{self.method!r} {self.fixed} {latencies}{precision}"

    def words(self, record: EpochRecord) -> Mapping[str, str]:
        return {"loss": f"{record.loss:.3f}", "latency": f"{record.latency:.4g} ms"}

    def content(self) -> Mapping[str, Any]:
        return {
            "identity": self._identity,
            "supernet": self.relaxed.supernet.state_dict(),
            "logits": {name: values.detach() for name, values in self.logits.items()},
            "optimisers": [self.weight_optimiser.state_dict(), self.logit_optimiser.state_dict()],
            "multiplier": self.multiplier,
            "extra": {name: part.state_dict() for name, part in self.extra.items()},
            "records": [dataclasses.asdict(record) for record in self.records],
        }

    def accepts(self, content: Mapping[str, Any]) -> bool:
        same = content.get("identity") == self._identity
        if not same:
            log.warning("%s is of other settings and is made anew", self.path)
        return same

    def load(self, content: Mapping[str, Any]) -> list[EpochRecord]:
        import torch

        self.relaxed.supernet.load_state_dict(content["supernet"])
        with torch.no_grad():
            for name, values in content["logits"].items():
                self.logits[name].copy_(values)
        states = content["optimisers"]
        for optimiser, state in zip((self.weight_optimiser, self.logit_optimiser), states, strict=True):
            optimiser.load_state_dict(state)
        self.multiplier = float(content["multiplier"])
        for name, part in self.extra.items():
            part.load_state_dict(content["extra"][name])
        return [EpochRecord(**{**record, "genes": tuple(record["genes"])}) for record in content["records"]]


def short_of_limit(problem: Problem, values: Values) -> str | None:
    """Warning where no network of a front (n, objectives) comes within `TARGET_TOLERANCE` of a latency limit.

    The network that was steered there may be on the front no more: a faster one is predicted to be as accurate.
    """
    limited = [o for o in _latencies(problem) if o.limit is not None]
    columns = [problem.objectives.index(o) for o in limited]
    if not limited:
        return None
    bounds = np.array([o.bound for o in limited], float)
    shares = values[:, columns] / bounds  # (n, limits)
    row, reached = int(shares.max(1).argmax()), float(shares.max())
    if reached >= 1 - TARGET_TOLERANCE:
        return None
    one = int(shares[row].argmax())
    return (
        f"no network on the front is within {TARGET_TOLERANCE:.0%} below the limit on {limited[one].name}, "
        f"{with_unit(bounds[one], limited[one].metric.unit)}: the slowest takes "
        f"{number_text(values[row, columns[one]])}, {1 - reached:.1%} less. Slower ones were found to be no better in "
        "any goal."
    )


def _latencies(problem: Problem) -> list[Objective]:
    """The latency objectives with a limit; where none has one, the first."""
    found = [objective for objective in problem.objectives if objective.predictor.metric == "latency"]
    return [objective for objective in found if objective.limit is not None] or found[:1]
