"""The contracts of a layer kind's lowering and of a device, as checks that any plug-in can run.

    from hardware_profiles.backend_contract import check_device, check_layer_lowering
    check_layer_lowering(MyLayer(...))
    check_device(load_device("my_device.yaml"))

A check raises `AssertionError` that says what was expected and what came instead.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping

import numpy as np

from hardware_profiles.backends.base import Backend, reported_values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.measure import REFERENCE
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import onnx_model
from search_spaces.base.errors import MeasurementError, MismatchError
from search_spaces.layers import Classifier, Conv, Layer, LinearClassifier, MBConv
from search_spaces.network import INPUT, OUTPUT, Network

SMALL = MBConv(8, 8, 16, True, 3, 1, 8, "h_swish", 8)
"""The layer that devices are checked with: it has every operator of a MobileNetV3 block."""


def check_layer_lowering(layer: Layer, tolerance: float = 1e-4) -> None:
    """Check that ONNX Runtime computes what the torch module computes, with random weights and BatchNorm statistics.

    Args:
        layer: of any kind.
        tolerance: largest difference, relative to the largest output where that is above 1.

    Raises:
        AssertionError: the parameters do not correspond, or the outputs differ.
    """
    import onnxruntime as ort
    import torch

    from search_spaces.torch_program import StaticNetwork, folded_weights

    generator = torch.Generator().manual_seed(0)
    lone = Network.of_layer("layer", layer)
    with torch.random.fork_rng():
        network = StaticNetwork(lone).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean") or (name.endswith("bias")):
                tensor.normal_(0, 0.5, generator=generator)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.ndim > 1:
                tensor.normal_(0, math.prod(tensor.shape[1:]) ** -0.5, generator=generator)
            elif tensor.ndim:
                tensor.uniform_(0.5, 1.5, generator=generator)
        images = [
            torch.randn(2, *shape, generator=generator) * 3
            if limit is None
            else torch.randint(limit, (2, *shape), generator=generator)
            for shape, limit in zip(layer.input_shapes, layer.program.index_limits, strict=True)
        ]
        expected = network(*images).numpy()

    weights = folded_weights(network)
    try:
        proto = onnx_model(Model(lone, weights), batch=2)
    except MismatchError as error:
        raise AssertionError(f"{layer} is deployed with a parameter that training does not give: {error}") from error
    if unused := sorted(set(weights) - {tensor.name for tensor in proto.graph.initializer}):
        raise AssertionError(f"{layer} is trained with parameters that its deployed form does not use: {unused}.")

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {name: image.numpy() for name, image in zip(lone.inputs, images, strict=True)}
    got = session.run([OUTPUT], given)[0]
    if got.shape != expected.shape:
        raise AssertionError(f"{layer} gives shape {expected.shape} in torch, but {got.shape} in ONNX Runtime.")
    difference = float(np.abs(got - expected).max())
    if not difference <= tolerance * max(1.0, float(np.abs(expected).max())):
        raise AssertionError(f"{layer} differs by {difference:.3g} between torch and ONNX Runtime.")


def check_device(profile: DeviceProfile) -> None:
    """Check a device that is available from here: what it states and what it measures.

    One of a backend outside of hwnas is opened in a process of its own as well.

    Raises:
        AssertionError: the first rule that it breaks.
    """
    if "." in profile.backend and not profile.isolated:
        check_device(dataclasses.replace(profile, isolated=True))
    try:
        backend = profile.open()
    except Exception as error:  # whatever a plug-in raises
        where = " in a process of its own" if profile.isolated else ""
        raise AssertionError(f"Device {profile.name!r} cannot be opened{where}: {error}") from error
    try:
        _check_environment(profile, backend)
        try:
            if backend.capabilities.any_layer:
                _check_samples(profile, backend)
        except MeasurementError as error:
            raise AssertionError(f"Device {profile.name!r} cannot run {SMALL}: {error}") from error
    finally:
        backend.close()


def _check_environment(profile: DeviceProfile, backend: Backend) -> None:
    environment = backend.environment
    try:
        json.dumps(environment, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"The environment must be JSON, but got {environment}: {error}") from error
    if not any(isinstance(value, str) and re.match(r"v?\d+\.\d+", value) for value in environment.values()):
        raise AssertionError(f"The environment must state the versions that were used, but got {environment}.")
    threads = {key: value for key, value in environment.items() if "threads" in key}
    if not threads and not backend.estimates:
        raise AssertionError(f"The environment must state the threads as read back, but got {environment}.")
    for key, value in threads.items():
        if value != profile.threads:
            raise AssertionError(
                f"Device {profile.name!r} asks for {profile.threads} threads, but reads back {key} = {value}."
            )


def _check_samples(profile: DeviceProfile, backend: Backend) -> None:
    model, other = Model.of_layer(SMALL), Model.of_layer(Conv(3, 8, 3, 2, "relu", 8))
    loaded, beside = backend.load(model), backend.load(other)  # `measure` holds many models at once
    for item in (loaded, beside, loaded):
        for runs in (1, 3):
            sample = item.sample_ms(runs)
            if not (isinstance(sample, float) and math.isfinite(sample) and sample > 0):
                raise AssertionError(f"A sample must be a positive, finite number of ms, but got {sample!r}.")
    _check_values(backend)
    if backend.capabilities.in_context:
        _check_positions(backend)

    _check_outputs(profile, backend, model)
    _check_outputs(profile, backend, _graph())


def _graph() -> Model:
    """A network whose positions branch: one input that two layers read, and two outputs."""
    stem, deep = Conv(3, 8, 3, 2, "relu", 8), Conv(8, 8, 3, 1, "relu", 4)
    network = Network(
        {"stem": stem, "deep": deep, "classes": LinearClassifier(8, 3, 4)},
        {"stem": (INPUT,), "deep": ("stem",), "classes": ("stem",)},
        {INPUT: stem.input_shape},
        {OUTPUT: "classes", "map": "deep"},
    )
    return Model(network)


def _check_outputs(profile: DeviceProfile, backend: Backend, model: Model) -> None:
    """The device gives what the ONNX model gives, each output by its name where there are several."""
    import onnxruntime as ort

    try:
        loaded = backend.load(model)
    except MeasurementError:
        if len(model.network.outputs) == 1:
            raise
        return  # it runs no such network, and says so
    images = model.random_inputs(profile.batch)[0]
    output = loaded.run(images)
    if output is None:
        if not backend.estimates:
            raise AssertionError(f"Device {profile.name!r} measures, so `run` must give the outputs, but gives None.")
        return
    session = ort.InferenceSession(
        onnx_model(model, profile.batch).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = model.network.named_outputs(model.run_onnx(session, images))
    found = output if isinstance(output, Mapping) else {next(iter(expected)): output}
    if isinstance(output, Mapping) != (len(expected) > 1) or set(found) != set(expected):
        raise AssertionError(
            f"`run` must give an array, or of a network with several outputs those by name ({', '.join(expected)}), "
            f"but got {type(output).__name__} of {', '.join(found)}."
        )
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape or not np.isfinite(found[name]).all():
            raise AssertionError(
                f"`run` must give finite numbers of shape {wanted.shape}, but got shape {found[name].shape}."
            )
        difference = float(np.abs(wanted - found[name]).max())
        if profile.dtype == "float32" and not difference <= 1e-3:
            raise AssertionError(f"The outputs of device {profile.name!r} differ by {difference:.3g} from the CPU's.")


def _check_values(backend: Backend) -> None:
    """Each declared metric is reported of layers and of a network, whose value is about theirs together."""
    network = {"first": REFERENCE, "second": Classifier(REFERENCE.out_channels, 32, 10, "relu", REFERENCE.size)}
    models = [Model(network), *(Model.of_layer(layer) for layer in network.values())]
    try:
        whole, *parts = (reported_values(backend.load(m), 3, backend.capabilities.metrics) for m in models)
    except MeasurementError as error:
        raise AssertionError(str(error)) from error
    for metric in backend.capabilities.metrics:
        if metric.of_layers is None:
            continue
        of_layers, found = [part[metric.name] for part in parts], whole[metric.name]
        expected = sum(of_layers) if metric.of_layers == "sum" else max(of_layers)
        if not expected / 4 <= found <= expected * 4:
            raise AssertionError(
                f"{metric.name} of a network must be about the {metric.of_layers} of its layers, {expected:.4g}, but "
                f"got {found:.4g}."
            )


def _check_positions(backend: Backend) -> None:
    """The time of a network is split by its positions, and about all of it."""
    model = Model({"first": REFERENCE, "second": Classifier(REFERENCE.out_channels, 32, 10, "relu", REFERENCE.size)})
    loaded = backend.load(model)
    splits = [loaded.positions_ms(5) for _ in range(5)]
    for split in splits:
        if set(split) != set(model.layers):
            raise AssertionError(f"positions_ms must be of the positions {list(model.layers)}, but got {list(split)}.")
        if not all(math.isfinite(ms) and ms >= 0 for ms in split.values()):
            raise AssertionError(f"positions_ms must be numbers of ms >= 0, but got {split}.")
    split = min(splits, key=lambda split: sum(split.values()))  # the least disturbed one, as of the whole
    if not split["first"] > split["second"]:  # 50 times the MACs
        raise AssertionError(f"positions_ms must give each position its own time, but got {split}.")
    whole, parts = min(loaded.sample_ms(5) for _ in range(5)), sum(split.values())
    if not whole / 4 < parts < whole * 4:
        raise AssertionError(f"positions_ms must sum to about the whole of {whole:.3g} ms, but got {parts:.3g} ms.")
