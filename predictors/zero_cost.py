"""Zero-cost proxies: scores of an untrained network that rank architectures as training would, roughly.

Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv:2101.08134, compare most of them; each
function names its own paper. Larger is better for all, and none needs training:

    score = ZeroCost(space, "synflow", images)
    score.predict(genes)                                                  # (n,)
    ProxyFeatures(space, [score, macs(space)], encoded=True).features(genes)     # (n, p), for any regressor

A network without signal from input to output (a NAS-Bench-201 cell that connects nothing) gets the least score that
the proxy can give, which is finite: each function says which one. A score that is NaN or infinite all the same
(numbers beyond the range of floats) is refused.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.base import Predictor, Values
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MismatchError, UnknownNameError
from search_spaces.base.threads import torch_threads
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

NO_SIGNAL = float(np.log(np.finfo(np.float64).tiny))
"""Score (-708) of a network without signal, by proxies that are logarithms."""

LEAST_EIGENVALUE = 1e-5
"""Bound below which eigenvalues of naswot's kernel of integers and jacov's correlations are taken for zero."""

PERTURBATION = 0.01
"""alpha of the zen-score, as its authors have it."""


class Proxy(Protocol):
    """A score of an untrained network, larger is better; it leaves the network and torch's global state as they were.

    Args (the same for all proxies, which leave alone what they do not need):
        network: from images to logits, with initial weights; the last module pools and classifies.
        images: a batch, shape (B, C, H, W), B >= 2.
        labels: of the images, int64, shape (B,).
        seed: of what the proxy draws itself.

    Raises:
        InvalidValueError: labels that the proxy needs are missing or are no classes of the network.
    """

    def __call__(
        self, network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0
    ) -> float: ...


def synflow(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """Logarithm of the synaptic flow: ``log sum_w w dR/dw``, where R is the sum of the outputs for an image of ones.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020,
    arXiv:2006.05467. The sum is over the weights of convolutions and linear layers, all made absolute, biases 0, in
    double precision (it is a product over depth). BatchNorm is left out. Numbers are thus non-negative, where ReLU
    is the identity; ReLU6 and hard swish, which are meant to follow a BatchNorm, are ReLU here. The values of the
    images do not matter. Without signal: `NO_SIGNAL`.
    """
    import torch

    network = copy.deepcopy(network).train().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    weights = _weights(network)
    with _without_norms():
        output = network(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum()
    flow = sum(float((w.detach() * g).sum()) for w, g in zip(weights, _gradients(output, weights), strict=True))
    return NO_SIGNAL if flow == 0 else max(float(np.log(flow)), NO_SIGNAL)


def naswot(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """``log |K|`` of the kernel ``K_ij = N - hamming(code_i, code_j)`` of the images' N binary activation codes.

    Mellor et al., "Neural Architecture Search without Training", ICML 2021, arXiv:2006.04647. A code holds which
    activations (ReLU, ReLU6, hard swish) have a positive input, of those that reach the output, as in the authors'
    code; BatchNorm uses the batch's statistics. Eigenvalues of K count at least `LEAST_EIGENVALUE`, so that a batch of
    equal images, or a network without signal, has the least determinant, not none.
    """
    import torch
    from torch.nn import functional

    def kernel(x: Tensor) -> Tensor:
        code = (x.flatten(1) > 0).to(x.dtype)  # (B, N of this activation)
        return (code @ code.T + (1 - code) @ (1 - code).T).double()

    activations = (functional.relu, functional.hardtanh, functional.hardswish)  # ReLU6 calls hardtanh
    _, kernels = _at_calls(copy.deepcopy(network).train(), images, activations, kernel)
    total = sum(kernels, torch.zeros(len(images), len(images), dtype=torch.float64))
    return float(torch.linalg.eigvalsh(total).clamp(min=LEAST_EIGENVALUE).log().sum())


def jacov(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """``-sum_i log(v_i + k) + 1 / (v_i + k)`` of the eigenvalues of the correlations between the images' gradients.

    Mellor et al., first version of arXiv:2006.04647, section 3; k is `LEAST_EIGENVALUE`. The gradients are those of the
    sum of the logits with respect to each image; BatchNorm uses the batch's statistics. A constant gradient counts as
    equal to every other one, so a network without signal gets the least score, that of equal images (about -1e5 B).
    """
    import torch

    images = images.clone().requires_grad_()
    (gradient,) = _gradients(copy.deepcopy(network).train()(images).sum(), [images])
    if not gradient.isfinite().all():
        return float("nan")
    centred = gradient.flatten(1).double()
    centred = centred - centred.mean(1, keepdim=True)
    length = centred.norm(dim=1)
    directions = centred / length.clamp(min=np.finfo(np.float64).tiny)[:, None]
    flat = length == 0
    correlation = torch.where(flat[:, None] | flat, 1.0, directions @ directions.T)
    values = torch.linalg.eigvalsh(correlation).clamp(min=0) + LEAST_EIGENVALUE
    return -float((values.log() + 1 / values).sum())


def zen_score(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """``log E |f(x) - f(x + alpha e)|_1 + sum_i log s_i``: sensitivity to the input, times what BatchNorms divide by.

    Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021, arXiv:2102.01063,
    algorithm 1. f is the network before pooling and classifier, weights, x and e are drawn from N(0, 1), as many x as
    there are images, whose values do not matter; ``s_i^2`` is the mean over channels of the variance over the batch
    that BatchNorm i sees for x (the authors' code reads a running mean of it). BatchNorms that see a constant or do not
    reach the output are left out, residual connections stay. Without signal: `NO_SIGNAL`.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    from search_spaces.torch_program import StaticNetwork

    def variance(y: Tensor) -> Tensor:  # six times as fast as Tensor.var over three dimensions
        return (y - y.mean((0, 2, 3), keepdim=True)).square().mean()

    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(network)
    body = (copied.body() if isinstance(copied, StaticNetwork) else nn.Sequential(*list(copied)[:-1])).train()
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for weight in _weights(body):
            weight.normal_(generator=generator)
    x = torch.randn(images.shape, generator=generator)
    perturbed = x + PERTURBATION * torch.randn(images.shape, generator=generator)
    output, variances = _at_calls(body, x, (functional.batch_norm,), variance)
    with torch.no_grad():
        change = float((output - body(perturbed)).abs().flatten(1).sum(1).mean())
    if change == 0:
        return NO_SIGNAL
    return float(np.log(change) + sum(0.5 * np.log(float(v)) for v in variances if v > 0))


def grad_norm(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """Sum over convolutions and linear layers of the Euclidean norm of ``dL/dW``, L being the cross-entropy.

    Abdelfattah et al., arXiv:2101.08134, section 3; BatchNorm uses the batch's statistics. Without signal: 0.
    """
    network = copy.deepcopy(network).train()
    return sum(float(g.norm()) for g in _gradients(_loss(network, images, labels), _weights(network)))


def snip(network: nn.Sequential, images: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> float:
    """Sum over the weights of convolutions and linear layers of ``|w dL/dw|``, L being the cross-entropy.

    Lee et al., "SNIP: Single-shot network pruning based on connection sensitivity", ICLR 2019, arXiv:1810.02340,
    summed as by Abdelfattah et al.; BatchNorm uses the batch's statistics. Without signal: 0.
    """
    network = copy.deepcopy(network).train()
    weights = _weights(network)
    gradients = _gradients(_loss(network, images, labels), weights)
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


PROXIES: Mapping[str, Proxy] = {
    "synflow": synflow,
    "naswot": naswot,
    "jacov": jacov,
    "zen_score": zen_score,
    "grad_norm": grad_norm,
    "snip": snip,
}


class ZeroCost:
    """A proxy as a predictor: it builds each architecture's network with weights that follow from the seed alone.

    Scores are kept, one per architecture.

    Args:
        space: whose architectures it predicts.
        proxy: a name in `PROXIES`, or a function of that form.
        images: a batch (B, C, H, W), B >= 2, normalised; resized to each architecture's resolution.
        labels: classes of the images (B,), for proxies that need them.
        seed: of the initial weights and of what the proxy draws; torch's global random state is left as it was.
        threads: of the CPU; None: as many as torch would take. Scores depend on it in their last bits.

    Raises:
        UnknownNameError: no proxy of that name.
        InvalidValueError: images or labels of another shape, not finite, or fewer than two.
        MismatchError: networks that give something else than one vector.
    """

    metric = "accuracy proxy"
    unit = "1"

    def __init__(
        self,
        space: SearchSpace,
        proxy: str | Proxy,
        images: ArrayLike,
        labels: ArrayLike | None = None,
        seed: int = 0,
        threads: int | None = 1,
    ) -> None:
        if isinstance(proxy, str) and proxy not in PROXIES:
            raise UnknownNameError(f"There is no proxy {proxy!r}; there are {', '.join(PROXIES)}.")
        given = space.lower(space.smallest).output_shapes
        if [len(shape) for shape in given.values()] != [1]:
            shapes = ", ".join(f"{name} {shape}" for name, shape in given.items())
            raise MismatchError(
                f"Zero-cost proxies judge networks that give one vector, but those of space {space.name!r} give "
                f"{shapes}."
            )
        self.space = space
        self.proxy = PROXIES[proxy] if isinstance(proxy, str) else proxy
        self.seed = seed
        self.threads = threads
        self._images = np.array(images, np.float32)
        self._labels = None if labels is None else np.array(labels)
        self._scores: dict[bytes, float] = {}
        if self._images.ndim != 4 or len(self._images) < 2 or not np.isfinite(self._images).all():
            raise InvalidValueError(
                f"`images` must be two or more finite images (B, C, H, W), but got {self._images.shape}"
                f"{'' if np.isfinite(self._images).all() else ' with NaN or infinite numbers'}."
            )
        if self._labels is not None and (
            self._labels.shape != self._images.shape[:1] or not np.issubdtype(self._labels.dtype, np.integer)
        ):
            raise InvalidValueError(
                f"`labels` must be {len(self._images)} integers, one per image, but got {self._labels.dtype} of shape "
                f"{self._labels.shape}."
            )

    def predict(self, genes: Genes) -> Values:
        """Scores of canonical genes (n, choices), larger is better, shape (n,).

        Raises:
            MismatchError: the images have another number of channels than the networks take.
            InvalidValueError: a score that is NaN or infinite, or missing or wrong labels.
        """
        rows = self.space.canonical(self.space.validate(genes))
        for row in rows:
            if row.tobytes() not in self._scores:
                with torch_threads(self.threads):
                    self._scores[row.tobytes()] = self._score(Architecture(self.space, row))
        return np.array([self._scores[row.tobytes()] for row in rows], np.float64)

    def _score(self, architecture: Architecture) -> float:
        import torch
        from torch.nn import functional

        from search_spaces.torch_program import StaticNetwork

        layers = self.space.lower(architecture)
        channels, *size = next(iter(layers.values())).input_shape
        if channels != self._images.shape[1]:
            raise MismatchError(
                f"Networks of space {self.space.name!r} take images of {channels} channels, but `images` have "
                f"{self._images.shape[1]}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = StaticNetwork(layers, self.space.norm_eps)
        images = torch.from_numpy(self._images)
        if list(images.shape[2:]) != size:
            images = functional.interpolate(images, tuple(size), mode="bilinear", antialias=True)
        labels = None if self._labels is None else torch.from_numpy(self._labels.astype(np.int64))
        score = float(self.proxy(network, images, labels, seed=self.seed))
        if not np.isfinite(score):
            name = getattr(self.proxy, "__name__", type(self.proxy).__name__)
            raise InvalidValueError(f"Proxy {name!r} must give a finite score, but gives {score} for {architecture}.")
        return score


@dataclass(frozen=True)
class ProxyFeatures:
    """Predictors' values side by side, as features of a regressor.

    Scores of proxies differ by orders of magnitude and have long tails: put a scaler that looks at ranks before the
    regressor (scikit-learn's ``QuantileTransformer``), unless it is made of trees.

    Args:
        space: whose architectures are described.
        proxies: predictors of that space: `ZeroCost`, but also exact ones (MACs, parameters).
        encoded: whether the one-hot encoding of the architecture comes after them.
    """

    space: SearchSpace
    proxies: Sequence[Predictor]
    encoded: bool = False

    def features(self, genes: Genes) -> NDArray[np.float64]:
        """Proxies (n, proxies) of canonical genes (n, choices), with ``encoded`` (n, proxies + one-hot features)."""
        columns = [proxy.predict(genes)[:, None] for proxy in self.proxies]
        if self.encoded:
            columns.append(self.space.encode(self.space.canonical(self.space.validate(genes))).astype(np.float64))
        return np.concatenate(columns, 1) if columns else np.zeros((len(genes), 0))


def _weights(network: nn.Module) -> list[Tensor]:
    """Weights of convolutions and linear layers."""
    return [p for name, p in network.named_parameters() if name.endswith("weight") and p.ndim > 1]


def _gradients(value: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a scalar, zeros for what it does not depend on."""
    import torch

    if not value.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in of)
    return torch.autograd.grad(value, of, allow_unused=True, materialize_grads=True)


def _loss(network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """Mean cross-entropy.

    Raises:
        InvalidValueError: no labels, or labels that are no classes of the network.
    """
    from torch.nn import functional

    if labels is None:
        raise InvalidValueError("This proxy is made of gradients of the loss, so it needs `labels`, but got None.")
    logits = network(images)  # (B, classes)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InvalidValueError(
            f"Labels of a network of {logits.shape[1]} classes are 0 to {logits.shape[1] - 1}, but got "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    return functional.cross_entropy(logits, labels)


@contextlib.contextmanager
def _without_norms() -> Iterator[None]:
    """Context in which BatchNorm does nothing, and ReLU6 and hard swish are ReLU."""
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    rectified = (functional.relu6, functional.hardtanh, functional.hardswish)

    class Replaced(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.batch_norm:
                return args[0]
            return functional.relu(args[0]) if func in rectified else func(*args, **(kwargs or {}))

    with Replaced():
        yield


def _at_calls(
    network: nn.Module,
    images: Tensor,
    functions: Sequence[Callable[..., Tensor]],
    statistic: Callable[[Tensor], Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Output, and a statistic of the input of every call of some functions whose result reaches that output.

    Functions, not modules, since blocks also call them without a module.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    calls: list[tuple[Any, Tensor]] = []

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if func in functions:
                with torch.no_grad():
                    calls.append((output.grad_fn, statistic(args[0])))
            return output

    with Recorder():
        output = network(images.clone().requires_grad_())  # else what is done to images alone has no `grad_fn`
    reaching: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in reaching:
            reaching.add(node)
            waiting += [before for before, _ in node.next_functions]
    return output.detach(), [value for node, value in calls if node in reaching]
