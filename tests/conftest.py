"""Spaces that many tests use, and processes that tests start and wait for.

The spaces keep no state besides caches, so one of each serves the whole run.
"""

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search_spaces import MobileNetV3
from search_spaces.loading import load_space

shipped = functools.cache(load_space)
"""A space that ships, by its name: one for all tests, whose layers are made and counted once."""

SPACES = Path(__file__).parents[1] / "search_spaces" / "space"


def space_of_yaml(name: str) -> MobileNetV3:
    settings = yaml.safe_load((SPACES / f"{name}.yaml").read_text())
    del settings["_target_"]
    return MobileNetV3(**settings)


@pytest.fixture(scope="session")
def digits_space() -> MobileNetV3:
    """Tens of millions of networks for 12 to 24 pixel images."""
    return space_of_yaml("mobilenet_v3_digits")


@pytest.fixture(scope="session")
def ofa_space() -> MobileNetV3:
    """The ImageNet space of the paper."""
    return space_of_yaml("ofa_mobilenet_v3")


@pytest.fixture(scope="session")
def tiny_space() -> MobileNetV3:
    """28 networks, few enough to look at each."""
    return MobileNetV3(
        name="tiny",
        resolutions=[8, 12],
        in_channels=1,
        classes=3,
        stem=8,
        stem_stride=1,
        stages=[{"channels": 8, "stride": 2, "squeeze": True, "activation": "relu"}],
        depths=[1, 2, 3],
        kernels=[3],
        expands=[1, 2],
        last_channels=8,
        features=8,
    )


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], object]], None]:
    """Waits for a condition, with patience for a busy computer: the limit is there for what never comes."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, "what was waited for has not come in two minutes"
            time.sleep(0.01)

    return wait


@pytest.fixture
def start_process() -> Iterator["Callable[..., subprocess.Popen[Any]]"]:
    """Starts processes, each in a session of its own; none outlives the test, and no pipe of theirs stays open."""
    with contextlib.ExitStack() as stack:
        # A shell lets its background jobs ignore Ctrl-C, and what they start inherits that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGINT, before)

        def end(process: "subprocess.Popen[Any]") -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

        def start(command: list[str], **settings: Any) -> "subprocess.Popen[Any]":
            process = stack.enter_context(subprocess.Popen(command, start_new_session=True, **settings))
            stack.callback(end, process)
            return process

        yield start


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
