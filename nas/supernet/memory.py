"""Memory that a step of training holds: weights, activations kept for the backward pass, gradients, optimiser.

Cai et al., "TinyTL", NeurIPS 2020, arXiv:2007.11622, sections 1 and 3.1: most of it are activations, and which ones are
kept follows from what is trained. `kept_bytes` asks autograd itself, so that it counts on tensors without values, which
take neither memory nor time, what it measures on real ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas.supernet.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.supernet.training_settings import TrainingSettings

OPTIMISER_COPIES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimiser keeps for each one that it trains."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a step of training holds.

    Args:
        weights: parameters and running statistics.
        activations: kept from the forward pass for the backward pass.
        gradients: of what is trained.
        optimiser: state of it.
    """

    weights: int
    activations: int
    gradients: int
    optimiser: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.activations + self.gradients + self.optimiser


def training_memory(supernet: Supernet, architecture: Architecture, settings: TrainingSettings) -> TrainingMemory:
    """Memory of the step of one network.

    Args:
        supernet: whose parameters are trained as its ``frozen`` says, on whatever device; it is not changed.
        architecture: of it.
        settings: with the optimiser, the images of a step, and the parts that they come in.
    """
    count, device = -(-settings.batch_size // settings.accumulate), next(supernet.parameters()).device
    supernet, inputs = copy.deepcopy(supernet).train(), supernet.lower(architecture).inputs
    given = {name: torch.zeros(count, *shape, device=device) for name, shape in inputs.items()}
    tensors = [*supernet.parameters(), *supernet.buffers()]
    activations = kept_bytes(lambda: supernet(given, architecture), tensors)
    gradients = sum(_bytes(parameter) for parameter in supernet.parameters() if parameter.requires_grad)
    return TrainingMemory(
        weights=sum(map(_bytes, tensors)),
        activations=activations,
        gradients=gradients,
        optimiser=OPTIMISER_COPIES[settings.optimiser] * gradients,
    )


def predicted_memory(space: SearchSpace, settings: TrainingSettings) -> TrainingMemory:
    """Memory of the step of the biggest network of a space, of a `OneNetwork` the only one, without training it."""
    with torch.device("meta"):
        supernet = Supernet(space)
        if settings.trained:
            supernet.train_only(settings.trained)
        return training_memory(supernet, space.biggest, settings)


def kept_bytes(forward: Callable[[], Any], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without those of the weights."""
    own = {tensor.untyped_storage()._cdata for tensor in weights}
    kept: dict[int, Any] = {}  # the storages themselves, so that none takes the place of another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = forward()
    del outputs
    return sum(storage.nbytes() for storage in kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
