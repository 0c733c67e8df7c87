"""Networks that a training runs again and again, each compiled as one function.

A random network of a large space never comes back, but the ends of the sandwich rule come with every step, and every
network of a small space comes often. Compiling takes up to minutes, so only what has come several times is compiled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nas.supernet.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.base.compiling import compiled, in_one_line

log = logging.getLogger(__name__)

AFTER = 8
"""Times that a network comes before it is compiled: more often than chance brings one of a large space."""

MOST = 32
"""Networks that are compiled at most: each keeps code, on a GPU memory too."""


REMEMBERED = 4096
"""Networks that are counted at once; of more, those that came least are forgotten."""


class RepeatedNetworks:
    """A supernet whose networks are compiled once they have come several times.

    On a GPU the kernels of a compiled network are recorded as CUDA graphs, so that two launches start them all. What a
    graph gives lies in memory that the next one writes over, so outputs are copied, and gradients of parameters too
    (gradients that add up over several runs come out wrong otherwise, without an error in some versions of torch). So
    the backward pass of a network must come before the next network runs.

    Args:
        supernet: in training mode; values of its weights may change, but they stay the same tensors.
        graphs: whether CUDA graphs are used where it is on a GPU.
    """

    def __init__(self, supernet: Supernet, *, graphs: bool = True) -> None:
        self.supernet = supernet
        self.graphs = graphs and next(supernet.parameters()).is_cuda
        self._came: Counter[Architecture] = Counter()
        self._compiled: dict[Architecture, Callable[..., Any]] = {}
        self._most = MOST
        self._recorded = False
        """True if the network that ran last is a graph."""
        if self.graphs:
            self._prepare()

    def __call__(self, images: Tensor, architecture: Architecture) -> Any:
        """Outputs of a network, as of the supernet itself.

        Args:
            images: at the resolution of the architecture, (B, C, H, W).
            architecture: which network.
        """
        run = self._compiled.get(architecture) or self._compile(architecture)
        self._recorded = False
        if run is None:
            return self.supernet(images, architecture)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # what graphs gave before is used up
        try:
            outputs = run(images)
        except Exception as error:
            if not _of_compiler(error):
                raise
            self._give_up(architecture, error)
            return self.supernet(images, architecture)
        self._recorded = self.graphs
        return _copied(outputs) if self.graphs else outputs

    def _compile(self, architecture: Architecture) -> Callable[..., Any] | None:
        """The function of a network that has come often enough; None: not yet, or it is one too many."""
        if len(self._compiled) >= self._most:
            return None
        if len(self._came) > REMEMBERED:
            self._came = Counter(dict(self._came.most_common(REMEMBERED // 2)))
        self._came[architecture] += 1
        if self._came[architecture] <= AFTER:
            return None
        run = compiled(self.supernet.plan(architecture), torch.get_num_threads(), graphs=self.graphs)
        self._compiled[architecture] = run
        log.info("a network that has come %d times is compiled, number %d", AFTER, len(self._compiled))
        return run

    def _give_up(self, architecture: Architecture, error: Exception) -> None:
        """Compile no more networks, and say why."""
        del self._compiled[architecture]
        self._most = 0
        log.warning(
            "`training.compile=true`: torch cannot compile a network of space %r, so it runs as without (%s)",
            self.supernet.space.name,
            in_one_line(error),
        )

    def _prepare(self) -> None:
        """Tell torch's compiler which tensors stay where they are, and keep gradients that a graph will write over."""
        from torch._dynamo import mark_static_address

        for buffer in self.supernet.buffers():  # of parameters it knows
            mark_static_address(buffer)  # a graph may only change what stays where it is

        def kept(gradient: Tensor) -> Tensor | None:
            return gradient.clone() if self._recorded else None

        for parameter in self.supernet.parameters():
            if parameter.requires_grad:
                parameter.register_hook(kept)  # type: ignore[no-untyped-call]


def _copied(outputs: Any) -> Any:
    """Outputs of a network in memory of their own."""
    if isinstance(outputs, Mapping):
        return {name: value.clone() for name, value in outputs.items()}
    return outputs.clone()


def _of_compiler(error: Exception) -> bool:
    """True if an error says that torch could not compile something."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return isinstance(error, TorchDynamoException | FailOnRecompileLimitHit)
