import importlib.util

import pytest
import torch
from torch._inductor import config

from search_spaces.base.compiling import compiled, in_one_line, why_not_compiled


def test_a_missing_compiler_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_compiled("cpu") is None
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    reason = why_not_compiled("cpu")
    assert reason is not None and reason.startswith("needs a C++ compiler: install g++ or clang++, or let CXX name one")
    assert "no-such-compiler" in reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_not_compiled("cuda") == "needs Triton for CUDA: pip install triton"


def test_an_error_in_one_line() -> None:
    assert in_one_line(ValueError("  wrong\n\nand why")) == "wrong"
    assert in_one_line(ValueError("backend='inductor' raised:\nNoCompiler: none\nmore")) == (
        "backend='inductor' raised: NoCompiler: none"
    )
    assert in_one_line(ValueError()) == "ValueError"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's compiler uses what torch deprecates
def test_functions_are_compiled_apart() -> None:
    """For one piece of code torch compiles 8 times, then gives up."""
    for number in range(10):
        double = compiled(lambda x, number=number: x.relu() * number, 1)
        for count in (2, 3):
            x = torch.arange(-1.0, count)
            assert torch.equal(double(x), x.relu() * number)
