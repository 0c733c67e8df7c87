"""Training memory: closed forms, and what is counted without values is what real tensors hold."""

import dataclasses

import pytest
import torch

from nas.data import Data
from nas.supernet import Supernet, TrainingSettings
from nas.supernet.memory import kept_bytes, predicted_memory, training_memory
from nas.supernet.training import _optimiser
from search_spaces import MobileNetV3
from search_spaces.layers import Conv
from search_spaces.one_network import OneNetwork
from search_spaces.torch_program import StaticLayer

TINY = ("*.bias", "classifier.classify.*")


def test_what_a_convolution_keeps() -> None:
    """All trained: its input, the input of BatchNorm with mean and deviation, the output of ReLU. Biases alone: which
    outputs of ReLU are not 0, one byte each."""
    layer = StaticLayer(Conv(1, 4, 3, 1, "relu", 8).program)
    images = torch.zeros(2, 1, 8, 8)

    def kept() -> int:
        return kept_bytes(lambda: layer(images), [*layer.parameters(), *layer.buffers()])

    assert kept() == 4 * (2 * 64 + 2 * 256 + 2 * 4 + 2 * 256)
    layer.freeze(lambda name: not name.endswith(".bias"))
    assert layer.still and kept() == 2 * 256


@pytest.mark.parametrize("trained", [(), TINY, ("classifier.classify.*",)], ids=["all", "biases", "head"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_counted_without_values_is_what_a_step_holds(
    trained: tuple[str, ...], optimiser: str, space: MobileNetV3, data: Data
) -> None:
    one = OneNetwork.of(space.biggest)
    settings = TrainingSettings(batch_size=8, trained=trained, optimiser=optimiser)  # type: ignore[arg-type]
    supernet = Supernet(one)
    if trained:
        supernet.train_only(trained)
    predicted = predicted_memory(one, settings)
    assert predicted == training_memory(supernet, one.network, settings)

    steps = _optimiser(supernet, settings)
    images, labels = data.train.take(torch.arange(8))
    images = torch.nn.functional.interpolate(images, (12, 12))
    data.task.loss(supernet.train()(images, one.network), labels).backward()
    steps.step()
    gradients = [p.grad for p in supernet.parameters() if p.grad is not None]
    assert predicted.gradients == sum(gradient.nbytes for gradient in gradients)
    states = [value for state in steps.state.values() for name, value in state.items() if name != "step"]
    assert predicted.optimiser == sum(value.nbytes for value in states)
    tensors = [*supernet.parameters(), *supernet.buffers()]
    assert predicted.weights == sum(tensor.nbytes for tensor in tensors)
    assert predicted.activations == kept_bytes(lambda: supernet(images, one.network), tensors)


def test_less_is_kept_of_smaller_batches_and_of_less_that_is_trained(space: MobileNetV3) -> None:
    one = OneNetwork.of(space.biggest)
    settings = TrainingSettings(batch_size=16)
    whole = predicted_memory(one, settings)
    parts = predicted_memory(one, dataclasses.replace(settings, accumulate=4))
    assert parts.activations < whole.activations / 3
    assert (parts.weights, parts.gradients, parts.optimiser) == (whole.weights, whole.gradients, whole.optimiser)
    assert whole.total == whole.weights + whole.activations + whole.gradients + whole.optimiser
    biases = predicted_memory(one, dataclasses.replace(settings, trained=TINY))
    head = predicted_memory(one, dataclasses.replace(settings, trained=("classifier.classify.*",)))
    assert head.activations < biases.activations < whole.activations / 2
