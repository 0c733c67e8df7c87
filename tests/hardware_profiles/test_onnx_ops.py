"""All operators in ONNX Runtime against torch."""

import pytest

from hardware_profiles.backend_contract import check_layer_lowering
from tests.search_spaces.ops.cases import CASES, Case


@pytest.mark.parametrize("name", [name for name in CASES if name != "none"])
def test_onnx_runtime_computes_what_torch_computes(name: str) -> None:
    check_layer_lowering(Case(name), 1e-5)
