"""Differentiable search: architecture logits are trained beside the weights of a relaxed supernet.

What all methods share; each of them is a file of `nas/searchers` that derives from `GradientSearch` and changes how
choices are mixed or how a step goes. A differentiable searcher trains in its first `ask` and hands over what it found:
the most probable network after every epoch and networks drawn from the last distribution. These are evaluated like any
other searcher's.

Latency in the loss is that of the problem's latency objective, whose predictor must be `Differentiable`: the exact mean
over the networks that the probabilities of the choices give.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nas.problem import Problem, Values
from nas.searcher import State
from predictors.base import Differentiable
from search_spaces.architecture import Genes
from search_spaces.errors import InvalidValueError, NasError

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import ImageData
    from nas.supernet.relaxed import Mix, RelaxedSupernet

log = logging.getLogger(__name__)

TARGET_TOLERANCE = 0.05
"""How far from its target a latency may end before it is said."""

SKIP_SHARE = 0.5
"""Share of searched positions that end without an operation above which a search counts as collapsed."""


@dataclass(frozen=True)
class LatencyLoss:
    """How latency enters the loss.

    Args:
        form: ``none``; ``linear``: CE + weight * E[lat] / scale (Cai et al., "ProxylessNAS", ICLR 2019, equation 5);
            ``power``: CE * weight * (E[lat] / scale) ** exponent (Wu et al., "FBNet", CVPR 2019, equation 2, in the
            form of its code); ``hinge``: CE + multiplier * max(0, E[lat] / target - 1), where the multiplier rises
            while the latency is above the target and falls while it is below, so that the target is hit.
        weight: see ``form``; for ``hinge`` how fast the multiplier moves per step.
        exponent: of ``power``.
    """

    form: Literal["none", "linear", "power", "hinge"] = "hinge"
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
    """What all differentiable searchers are set by.

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
        offered: networks drawn from the last distribution, beside the most probable of each epoch.
        seed: of weights, images and draws.
    """

    data: ImageData = field(repr=False)
    folder: Path | None = field(default=None, repr=False)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 20
    warm_up: int = 2
    images: int | None = None
    batch_size: int = 64
    learning_rate: float = 0.025
    weight_decay: float = 3e-4
    architecture_rate: float = 0.02
    architecture_decay: float = 1e-3
    latency: LatencyLoss = field(default_factory=LatencyLoss)
    offered: int = 16
    seed: int = 0

    name: ClassVar[str] = "gradient"

    def __post_init__(self) -> None:
        for key, least in (("epochs", 1), ("warm_up", 0), ("batch_size", 2), ("offered", 0), ("seed", 0)):
            if getattr(self, key) < least:
                raise InvalidValueError(f"`{key}` must be >= {least}, but got {getattr(self, key)}.")
        if self.warm_up >= self.epochs:
            raise InvalidValueError(f"`warm_up` must be below `epochs`, but got {self.warm_up} of {self.epochs}.")
        for key in ("learning_rate", "architecture_rate"):
            if not 0 < getattr(self, key) < math.inf:
                raise InvalidValueError(f"`{key}` must be a positive number, but got {getattr(self, key)}.")
        if self.images is not None and self.images < 2 * self.batch_size:
            raise InvalidValueError(f"`images` must be >= 2 batches, but got {self.images}.")
        if isinstance(self.latency, Mapping):
            object.__setattr__(self, "latency", LatencyLoss(**self.latency))

    # -- the searcher --------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        return self.epochs + self.offered

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
        """How the outputs of a position's layers become one."""
        from nas.supernet.relaxed import weighted_sum

        return weighted_sum

    def mixture(self, run: GradientRun, logits: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Weights of the values of each searched choice for one step; ``progress`` goes from 0 to 1 over the search."""
        return {name: values.softmax(0) for name, values in logits.items()}

    def probabilities(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the logits say once trained, and what latency is the mean over."""
        return {name: values.softmax(0) for name, values in logits.items()}

    def step(self, run: GradientRun, train: Batch, validation: Batch, progress: float, searching: bool) -> float:
        """One update of logits (unless still warming up) and one of weights; gives the training loss."""
        if searching:
            run.descend_logits(run.loss(validation, self.mixture(run, run.logits, progress)))
        frozen = {name: values.detach() for name, values in self.mixture(run, run.logits, progress).items()}
        return run.descend_weights(run.cross_entropy(train, frozen))


Batch = tuple["Tensor", "Tensor"]
"""Images (B, C, H, H) and labels (B,)."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did: ``latency`` is E[lat] in the predictor's unit, NaN without one; ``entropy`` is the mean over
    choices, as a share of its largest."""

    epoch: int
    loss: float
    latency: float
    entropy: float
    genes: tuple[int, ...]


class GradientRun:
    """One differentiable search: the relaxed supernet, the logits, their optimisers.

    Args:
        problem: gives the space and, where one of its objectives is a latency, the latency of the loss.
        method: the searcher.

    Raises:
        InvalidValueError: the space has a position that cannot be relaxed, or the latency predictor no mean.
        InfeasibleError: the latency limit lies below the fastest network.
    """

    def __init__(self, problem: Problem, method: GradientSearch) -> None:
        import torch

        from nas.data import resize
        from nas.supernet.relaxed import RelaxedSupernet
        from nas.supernet.supernet import check_task, input_resolution

        problem.check_feasible()
        self.problem, self.method, self.space = problem, method, problem.space
        check_task(self.space, method.data)
        self.relaxed: RelaxedSupernet = RelaxedSupernet(
            self.space, fixed=method.fixed, seed=method.seed, mix=method.mix()
        )
        self.relaxed.train()
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
        self.records: list[EpochRecord] = []
        self._latency = next((o for o in problem.objectives if o.predictor.metric == "latency"), None)
        if self._latency is not None and method.latency.form != "none":
            if not isinstance(self._latency.predictor, Differentiable):
                raise InvalidValueError(
                    f"The latency predictor {type(self._latency.predictor).__name__} has no mean over probabilities. "
                    "Fit one that has with `latency=lookup`, or set `searcher.latency.form=none`."
                )
            self.scale = float(self.expected_latency(self.probabilities()).detach())
        elif method.latency.form == "hinge" and self._latency is None:
            self._latency = None
        images = method.data.train.images
        count = len(images) if method.images is None else min(method.images, len(images))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(method.seed))[:count]
        resolution = input_resolution(self.space, self.relaxed.architecture(self.probabilities()))
        self._images = resize(images[order], resolution)
        self._labels = method.data.train.labels[order]

    # -- the loss ------------------------------------------------------------------------------------------------------

    @property
    def target(self) -> float | None:
        """The latency limit."""
        return None if self._latency is None else self._latency.limit

    def probabilities(self) -> dict[str, Tensor]:
        """Of the values of each searched choice."""
        return self.method.probabilities(self.logits)

    def expected_latency(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """E[lat] under the probabilities, in the predictor's unit, a scalar."""
        assert self._latency is not None and isinstance(self._latency.predictor, Differentiable)
        return self._latency.predictor.relaxed(self.relaxed.complete(probabilities))

    def cross_entropy(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the mixture, a scalar."""
        from torch.nn import functional

        images, labels = batch
        return functional.cross_entropy(self.relaxed(images, weights), labels)

    def loss(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy and latency, a scalar."""
        return self.with_latency(self.cross_entropy(batch, weights))

    def with_latency(self, error: Tensor) -> Tensor:
        """Add the latency of the present logits to an error; see `LatencyLoss`."""
        form, settings = self.method.latency.form, self.method.latency
        if form == "none" or self._latency is None:
            return error
        latency = self.expected_latency(self.probabilities())
        if form == "linear":
            return error + settings.weight * latency / self.scale
        if form == "power":
            return error * settings.weight * (latency / self.scale) ** settings.exponent
        if self.target is None:
            return error
        excess = latency / self.target - 1
        self.multiplier = max(0.0, self.multiplier + settings.weight * float(excess.detach()))
        return error + self.multiplier * excess

    # -- steps ---------------------------------------------------------------------------------------------------------

    def descend_logits(self, loss: Tensor) -> None:
        """One step of the logits along the gradient of a loss."""
        self.logit_optimiser.zero_grad()
        self.weight_optimiser.zero_grad()
        self._finite(loss, "loss")
        loss.backward()  # type: ignore[no-untyped-call]
        self.logit_optimiser.step()
        for name, values in self.logits.items():
            self._finite(values, f"logits of {name}")

    def descend_weights(self, loss: Tensor) -> float:
        """One step of the weights; gives the loss."""
        from torch import nn

        self.weight_optimiser.zero_grad()
        self._finite(loss, "loss")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.relaxed.parameters(), 5.0)
        self.weight_optimiser.step()
        return float(loss.detach())

    def _finite(self, values: Tensor, what: str) -> None:
        if not bool(values.detach().isfinite().all()):
            kept = "" if self.method.folder is None else f" The state after epoch {len(self.records)} is kept."
            raise NasError(
                f"The {what} of {type(self.method).__name__} became infinite or NaN in epoch {len(self.records) + 1}."
                f"{kept} Lower `searcher.learning_rate` or `searcher.architecture_rate`."
            )

    # -- epochs --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the epochs that the checkpoint lacks."""
        from tqdm import tqdm

        self._restore()
        method = self.method
        title = type(method).__name__
        with tqdm(
            total=method.epochs, initial=len(self.records), desc=title, unit="epoch", disable=None, leave=False
        ) as progress:
            while len(self.records) < method.epochs:
                record = self.epoch(len(self.records))
                self.records.append(record)
                self._save()
                progress.set_postfix(loss=f"{record.loss:.3f}", latency=f"{record.latency:.4g}")
                progress.update()
        self._say_what_is_wrong()

    def epoch(self, number: int) -> EpochRecord:
        """Train one epoch; its draws depend on the seed and its number alone."""
        import torch

        method = self.method
        rng = np.random.default_rng([method.seed, number])
        self.generator.manual_seed(int(rng.integers(2**62)))
        half = len(self._labels) // 2
        steps = max(1, half // method.batch_size)
        weights_order = torch.randperm(half, generator=self.generator).tensor_split(steps)
        logits_order = (torch.randperm(len(self._labels) - half, generator=self.generator) + half).tensor_split(steps)
        total = 0.0
        for step, (ours, theirs) in enumerate(zip(weights_order, logits_order, strict=True)):
            done = (number + step / steps) / method.epochs
            for group in self.weight_optimiser.param_groups:
                group["lr"] = method.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            searching = number >= method.warm_up
            progress = max(0.0, (number - method.warm_up + step / steps) / (method.epochs - method.warm_up))
            total += method.step(self, self._part(ours), self._part(theirs), progress, searching)
        probabilities = self.probabilities()
        latency = math.nan
        if self._latency is not None and isinstance(self._latency.predictor, Differentiable):
            latency = float(self.expected_latency(probabilities).detach())
        entropies = [
            float(-(p.detach() * p.detach().clamp_min(1e-12).log()).sum()) / math.log(len(p))
            for p in probabilities.values()
            if len(p) > 1
        ]
        genes = tuple(int(gene) for gene in self.relaxed.architecture(probabilities).genes)
        return EpochRecord(number + 1, total / steps, latency, float(np.mean(entropies or [0.0])), genes)

    def _part(self, rows: Tensor) -> Batch:
        return self._images[rows], self._labels[rows]

    # -- what is found -------------------------------------------------------------------------------------------------

    def candidates(self) -> Genes:
        """The most probable network, then draws from the distribution, then the most probable of earlier epochs."""
        probabilities = self.probabilities()
        rng = np.random.default_rng([self.method.seed, self.method.epochs])
        drawn = self.relaxed.sample(probabilities, self.method.offered, rng)
        path = np.array([record.genes for record in reversed(self.records)], np.int16)
        return np.concatenate([path[:1], drawn, path[1:]])

    def skipped(self) -> float:
        """Share of the searched positions where the most probable network has no operation, or a skip connection."""
        from search_spaces.layers import CELL_EDGES, Cell201

        layers = self.space.lower(self.relaxed.architecture(self.probabilities()))
        searched = [place for place in self.relaxed.places if len(place.layers) > 1]
        skips = 0.0
        for place in searched:
            layer = layers.get(place.name)
            if isinstance(layer, Cell201):
                skips += sum(o in ("none", "skip_connect") for o in layer.operations) / len(CELL_EDGES)
            else:
                skips += layer is None
        return skips / max(len(searched), 1)

    def _say_what_is_wrong(self) -> None:
        share = self.skipped()
        if share > SKIP_SHARE:
            log.warning(
                "%s: collapsed: %.0f %% of the searched positions ended as skip connections or nothing. Train weights "
                "longer before logits (`searcher.warm_up`), or choose another method.",
                *(type(self.method).__name__, 100 * share),
            )
        if self.target is None or self._latency is None:
            return
        genes = self.relaxed.architecture(self.probabilities()).genes
        reached = float(self._latency.predictor.predict(genes[None])[0])
        if abs(reached / self.target - 1) > TARGET_TOLERANCE:
            log.warning(
                "%s: the most probable network takes %.4g %s, %+.1f %% off the target %.4g. Search longer, or raise "
                "`searcher.latency.weight`.",
                *(type(self.method).__name__, reached, self._latency.predictor.unit),
                *(100 * (reached / self.target - 1), self.target),
            )

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def _path(self) -> Path | None:
        return None if self.method.folder is None else self.method.folder / f"{type(self.method).__name__}.pt"

    @property
    def _identity(self) -> str:
        return f"{self.method!r} {self.method.data.fingerprint} {self.target}"

    def _save(self) -> None:
        from nas.supernet.supernet import write_checkpoint

        if self._path is None:
            return
        content = {
            "identity": self._identity,
            "supernet": self.relaxed.supernet.state_dict(),
            "logits": {name: values.detach() for name, values in self.logits.items()},
            "optimisers": [self.weight_optimiser.state_dict(), self.logit_optimiser.state_dict()],
            "multiplier": self.multiplier,
            "records": [dataclasses.asdict(record) for record in self.records],
        }
        write_checkpoint(self._path, self.space, content)

    def _restore(self) -> None:
        import torch

        from nas.supernet.supernet import read_checkpoint

        if self._path is None or not self._path.exists():
            return
        content = read_checkpoint(self._path, self.space)
        if content.get("identity") != self._identity:
            log.warning("%s is of other settings and is made anew", self._path)
            return
        self.relaxed.supernet.load_state_dict(content["supernet"])
        with torch.no_grad():
            for name, values in content["logits"].items():
                self.logits[name].copy_(values)
        for optimiser, state in zip((self.weight_optimiser, self.logit_optimiser), content["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.multiplier = float(content["multiplier"])
        self.records = [EpochRecord(**{**record, "genes": tuple(record["genes"])}) for record in content["records"]]
