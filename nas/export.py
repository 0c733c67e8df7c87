"""From points of a front to files that run elsewhere: ONNX with trained weights, and what network it is."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import torch

from hardware_profiles.device import DeviceProfile, backend_module
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import INPUT, OUTPUT, onnx_model
from nas import pareto
from search_spaces.architecture import Architecture
from search_spaces.blocks import folded_weights
from search_spaces.errors import NasError
from search_spaces.storage import write_bytes, write_json

if TYPE_CHECKING:
    from nas.supernet import SupernetAccuracy

SUPERNET_TOLERANCE = 1e-5
ONNX_TOLERANCE = 1e-4
PARITY_IMAGES = 8


def choose(costs: pareto.Costs, n: int) -> list[tuple[int, str]]:
    """At most n rows of a front: the fastest, the knee, the most accurate, and then ones evenly between.

    Args:
        costs: (negative accuracy, latency) of a front, sorted by latency, shape (points, 2).
        n: how many.

    Returns:
        (row, name) sorted by latency.
    """
    if not len(costs):
        return []
    knee, last = pareto.knee(costs), len(costs) - 1
    names = {knee: "knee", last: "most accurate", 0: "fastest"}  # where two meet, the later name
    between = np.linspace(0, last, max(n, 2)).round().astype(int).tolist()
    chosen = sorted(list(dict.fromkeys([0, knee, last, *between, *range(len(costs))]))[:n])
    numbers = itertools.count(1)
    return [(row, names[row] if row in names else f"front {next(numbers)}") for row in chosen]


def export_network(
    architecture: Architecture, evaluator: SupernetAccuracy, folder: Path, device: DeviceProfile | None = None
) -> dict[str, float]:
    """Write ``network.onnx`` (batch 1) and ``architecture.json``, and what the device takes in place of the former.

    For an int8 device that is the quantised network, with the activation ranges of its calibration images in
    ``ranges.json``.

    BatchNorm statistics are taken anew for the network and folded into its weights.

    Returns:
        Largest absolute differences of logits: ``extracted``, the supernet against the extracted network; ``onnx``, the
        network to deploy against the written file in ONNX Runtime.

    Raises:
        NasError: a difference is too large: the file would not be the network that was searched.
    """
    supernet = evaluator.supernet.eval()
    network = evaluator.deployed(architecture)
    layers = architecture.space.lower(architecture)
    model = Model(layers, folded_weights(network))
    content = onnx_model(model).SerializeToString()

    images = torch.randn(
        (PARITY_IMAGES, *model.input_shape), generator=torch.Generator().manual_seed(0)
    )  # (B, C, H, W)
    with torch.no_grad():
        same = supernet(images, architecture) - supernet.extract(architecture)(images)
        deployed = network(images).numpy()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    written = np.concatenate([session.run([OUTPUT], {INPUT: image[None].numpy()})[0] for image in images])
    parity = {
        "extracted": float(same.abs().max()),
        "onnx": float(np.abs(written - deployed).max() / max(1.0, float(np.abs(deployed).max()))),
    }
    for name, tolerance in (("extracted", SUPERNET_TOLERANCE), ("onnx", ONNX_TOLERANCE)):
        if not parity[name] <= tolerance:
            raise NasError(
                f"Parity check {name!r} of {architecture.values} failed: logits differ by {parity[name]:.2g}, "
                f"more than {tolerance:g}. Nothing was exported; please report this network."
            )
    write_bytes(folder / "network.onnx", content)
    write_json(folder / "architecture.json", architecture.to_json())
    if device is not None:
        if device.dtype == "int8":
            from hardware_profiles.quantisation import activation_ranges

            ranges = activation_ranges(model, evaluator.calibration_images(architecture).numpy())
            write_json(folder / "ranges.json", ranges)
            model = dataclasses.replace(model, ranges=ranges)
        deployable = getattr(backend_module(device.backend, f"Device {device.name!r}"), "deployable", None)
        for name, file in ({} if deployable is None else deployable(device, model)).items():
            write_bytes(folder / name, file)
    return parity
