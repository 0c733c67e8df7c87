"""From points of a front to files that run elsewhere: ONNX with trained weights, and what network it is."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from hardware_profiles.device import DeviceProfile, backend_module
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import INPUT, OUTPUT, cpu_session, onnx_model
from nas import pareto
from search_spaces.architecture import Architecture
from search_spaces.blocks import folded_weights
from search_spaces.errors import NasError
from search_spaces.storage import write_bytes, write_json
from search_spaces.threads import torch_threads

if TYPE_CHECKING:
    from nas.data import ImageData
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
    """Write ``network.onnx``, ``architecture.json``, ``preprocessing.json``, and what the device takes besides.

    The files take the batch that the device is measured with. For an int8 device there is the quantised network, with
    the activation ranges of its calibration images in ``ranges.json``.

    BatchNorm statistics are taken anew for the network and folded into its weights.

    Returns:
        Largest absolute differences of logits: ``extracted``, the supernet against the extracted network; ``onnx``, the
        network to deploy against the written file in ONNX Runtime.

    Raises:
        NasError: a difference is too large: the file would not be the network that was searched.
    """
    supernet, batch = evaluator.supernet.eval(), 1 if device is None else device.batch
    network = evaluator.deployed(architecture)
    layers = architecture.space.lower(architecture)
    model = Model(layers, folded_weights(network))
    content = onnx_model(model, batch).SerializeToString()

    images = torch.randn(
        (-(-PARITY_IMAGES // batch) * batch, *model.input_shape), generator=torch.Generator().manual_seed(0)
    )  # (B, C, H, W)
    with torch_threads(evaluator.threads), torch.no_grad():
        same = supernet(images, architecture) - supernet.extract(architecture)(images)
        deployed = network(images).numpy()
    session = cpu_session(content)
    parts = np.split(images.numpy(), len(images) // batch)
    written = np.concatenate([session.run([OUTPUT], {INPUT: part})[0] for part in parts])
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
    files = {"network.onnx": content}
    if device is not None:
        if device.dtype == "int8":
            from hardware_profiles.quantisation import activation_ranges

            ranges = activation_ranges(model, evaluator.calibration_images(architecture).numpy())
            write_json(folder / "ranges.json", ranges)
            model = dataclasses.replace(model, ranges=ranges)
        deployable = getattr(backend_module(device.backend, f"Device {device.name!r}"), "deployable", None)
        files |= {} if deployable is None else deployable(device, model)
    how = preprocessing(evaluator.data, model, batch)
    if any(name.endswith(".tflite") for name in files):
        how["tflite"] = "input NHWC, int8: divide by the scale and add the zero point that the file states for it"
    for name, file in files.items():
        write_bytes(folder / name, _described(file, how) if name.endswith(".onnx") else file)
    write_json(folder / "architecture.json", architecture.to_json())
    write_json(folder / "preprocessing.json", how)
    return parity


def preprocessing(data: ImageData, model: Model, batch: int) -> dict[str, Any]:
    """How raw images become the input of an exported network, and what its output is; JSON-able."""
    channels, height, width = model.input_shape
    return {
        "steps": [
            f"divide raw pixels (0: black) by {data.scale:g}",
            "subtract mean and divide by std, per channel, in the order of the training images' channels",
            f"resize to {height} x {width}: bilinear, antialiased where it shrinks",
        ],
        "divide_by": data.scale,
        "mean": list(data.mean),
        "std": list(data.std),
        "height": height,
        "width": width,
        "input": {"name": INPUT, "dtype": "float32", "layout": "NCHW", "shape": [batch, channels, height, width]},
        "output": {"name": OUTPUT, "shape": [batch, data.classes], "meaning": "a score per class; the highest counts"},
        "classes": data.classes,
        "data": data.name,
    }


def _described(content: bytes, how: Mapping[str, Any]) -> bytes:
    """An ONNX file that says itself how images become its input."""
    proto = onnx.load_model_from_string(content)
    proto.doc_string = "; ".join(how["steps"])
    onnx.helper.set_model_props(proto, {"preprocessing": json.dumps(how)})
    return bytes(proto.SerializeToString())
