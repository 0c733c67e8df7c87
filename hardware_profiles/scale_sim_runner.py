"""SCALE-Sim's cycles of convolutions, as a process that speaks JSON lines, for `hardware_profiles.backends.scale_sim`.

SCALE-Sim 3.0.0 breaks on the numpy that hwnas uses, so this file runs under the interpreter of another environment and
imports nothing of hwnas. It first writes the versions, then answers each line ``{"rows", "columns", "dataflow",
"convolutions": [[side, kernel, channels, filters, stride], ...]}`` with ``{"cycles": [...]}`` or ``{"error"}``.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from typing import Any

import numpy as np
from scalesim.layout_utils import layouts
from scalesim.scale_config import scale_config
from scalesim.single_layer_sim import single_layer_sim
from scalesim.topology_utils import topologies


def layer_simulator(request: dict[str, Any], convolution: list[Any]) -> Any:
    """SCALE-Sim's simulator of one layer, in the mode where the memory keeps up with the array ("CALC").

    Args:
        request: with rows, columns and dataflow of the array.
        convolution: size of the input with its padding, kernel size, channels, filters, stride; sizes and strides as
            [height, width], or one number for both.
    """
    config = scale_config()
    config.array_rows, config.array_cols, config.df = request["rows"], request["columns"], request["dataflow"]
    config.valid_conf_flag = True
    side, kernel, channels, filters, stride = convolution
    side, kernel, stride = ([value] * 2 if isinstance(value, int) else value for value in (side, kernel, stride))
    topology = topologies()
    entry = ["layer", *side, *kernel, channels, filters, *stride, 1, 1]  # 1, 1: not sparse
    topology.append_topo_arrays("layer", entry)
    topology.num_layers, topology.topo_load_flag = 1, True
    simulator = single_layer_sim()
    simulator.set_params(layer_id=0, config_obj=config, topology_obj=topology, layout_obj=layouts(), verbose=False)
    return simulator


def cycles_of(request: dict[str, Any], convolution: list[Any]) -> int:
    """Cycles of one convolution: those of "Total Cycles" in SCALE-Sim's compute report.

    With a memory that keeps up, the report's number is the index of the last line of the demand of outputs, whatever
    the addresses in it. So only this demand is made, without addresses, and the memory is not simulated, which would
    take 15 times longer.
    """
    simulator = layer_simulator(request, convolution)
    sizes, array = simulator.op_mat_obj, simulator.compute_system
    pixels, window, filters = sizes.ofmap_px_per_filt, sizes.conv_window_size, sizes.num_filters
    array.set_params(
        config_obj=simulator.config,
        ifmap_op_mat=_any((pixels, window)),
        filter_op_mat=_any((window, filters)),
        ofmap_op_mat=_any((pixels, filters)),
    )
    array.create_ofmap_demand_mat()
    return int(array.ofmap_demand_matrix.shape[0]) - 1


def _any(shape: tuple[int, int]) -> Any:
    return np.broadcast_to(np.zeros(1, int), shape)  # takes no memory


def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # SCALE-Sim prints
    versions = {name: importlib.metadata.version(name) for name in ("scalesim", "numpy")}
    print(json.dumps({**versions, "python": platform.python_version()}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"cycles": [cycles_of(request, c) for c in request["convolutions"]]}
        except (Exception, SystemExit) as error:  # SCALE-Sim raises many kinds, and leaves the process on some
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
