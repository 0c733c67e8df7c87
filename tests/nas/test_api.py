"""The Python API: names and objects, one clear error each, and the examples of its docstrings."""

import doctest
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import nas
import nas.run.api


def test_importing_is_cheap() -> None:
    code = "import sys, nas; print([m for m in ('torch', 'numpy', 'hydra') if m in sys.modules]); print(len(dir(nas)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]\n")


def test_every_name_is_there() -> None:
    assert all(getattr(nas, name) for name in nas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spaces'; there are .*space"):
        nas.spaces  # type: ignore[attr-defined]  # noqa: B018


def test_examples() -> None:
    assert doctest.testmod(nas.run.api, extraglobs={"nas": nas}).failed == 0


def test_settings_replace_those_of_the_yaml() -> None:
    assert nas.space("mobilenet_v3_digits", resolutions=[12]).choices[0].values == (12,)
    assert nas.device("host_ort", batch=4).batch == 4
    assert nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).fingerprint != nas.dataset("digits").fingerprint
    assert type(nas.space("search_spaces.NasBench201", name="cell", **NASBENCH)).__name__ == "NasBench201"


NASBENCH = {"channels": 4, "cells": 1, "in_channels": 1, "resolution": 8, "classes": 3}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nas.space("ofa_mobilnet_v3"), "Did you mean 'ofa_mobilenet_v3'"),
        (lambda: nas.space("mobilenet_v3_digits", resolution=[12]), "Did you mean `resolutions`"),
        (lambda: nas.space("mobilenet_v3_digits", resolutions=12), "must be a list of int, but got 12"),
        (lambda: nas.space("nas.data.digits"), "must make SearchSpace"),
        (lambda: nas.device("host"), "Did you mean 'host_ort'"),
        (lambda: nas.device("host_ort", thread=1), "Did you mean 'threads'"),
        (lambda: nas.dataset("digit"), "Did you mean 'digits'"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(nas.NasError, match=message):
        call()
