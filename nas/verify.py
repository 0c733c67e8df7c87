"""Whether the numbers hold: exported networks measured on their device as a whole, beside what was predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hardware_profiles.backends.base import Backend
from hardware_profiles.device import DeviceProfile
from hardware_profiles.measure import Measurement, Measurer
from hardware_profiles.model import Model
from hardware_profiles.onnx_graph import INPUT, OUTPUT, cpu_session, weights_of_onnx
from nas.data import ImageData, Part, resize
from nas.records import Exports
from search_spaces.architecture import Architecture
from search_spaces.checked import read_checked
from search_spaces.errors import DamagedFileError, MeasurementError
from search_spaces.space import SearchSpace
from search_spaces.storage import contents_of, read_json

DEVICE_TOLERANCE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1, "int8": 2e-1}
"""Largest difference of a device's outputs from the exported file's, relative to the largest one if that is above 1."""
AGAIN = "Run `nas export` again."
INTEGER_FILE = "network_int8.onnx"
DRIFT_TOLERANCE = 1.05
DRIFT_ATTEMPTS = 4


def verify_device(
    space: SearchSpace,
    data: ImageData,
    device: DeviceProfile,
    folder: Path,
    references: Mapping[Architecture, Measurement],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Measure all networks exported for a device: latency there, accuracy of the exported file.

    Only here, after all choices are made, the test part of the data is used.

    Networks measured when the device was profiled are measured again among the exported ones. Where they come out
    slower or faster than then, the device itself has changed speed (another job, heat): the measurement is repeated a
    few times, and the drift that remains is part of the result.

    Args:
        space: of the networks.
        data: validation and test images.
        device: to measure on.
        folder: of the export: ``networks.json`` and a folder per network.
        references: networks as measured when the device was profiled.
        rng: draws the order of measuring.

    Returns:
        JSON-able: device, environment and per network the predicted beside the measured values, violations in words.

    Raises:
        MeasurementError: a network does not run on the device, or computes something else there.
    """
    exported = read_checked(folder / "networks.json", Exports, AGAIN)
    limits: dict[str, float | None] = {
        "latency_ms": exported["limits"]["latency_ms"],
        "memory_bytes": exported["limits"]["memory_bytes"],
    }
    entries = [
        (n["label"], n["folder"], n["predicted"], max(n["parity"].values(), default=0.0)) for n in exported["networks"]
    ]
    architectures, models, files = [], [], []
    for _, name, _, _ in entries:
        place = folder / name
        if Path(name).name != name:
            raise DamagedFileError(f"{folder / 'networks.json'} names the folder {name!r}, which is not in it. {AGAIN}")
        with contents_of(place / "architecture.json", AGAIN):
            architectures.append(Architecture.from_json(space, read_json(place / "architecture.json")))
        files.append(place / "network.onnx")
        ranges = None
        if (place / "ranges.json").exists():
            pairs = read_checked(place / "ranges.json", list[list[float]], AGAIN)
            with contents_of(place / "ranges.json", AGAIN):
                ranges = [(low, high) for low, high in pairs]
        models.append(Model(space.lower(architectures[-1]), weights_of_onnx(files[-1]), ranges))

    in_integers = all(path.with_name(INTEGER_FILE).exists() for path in files)
    judged = [path.with_name(INTEGER_FILE) for path in files] if in_integers else files
    backend = device.open()
    try:
        _check_outputs(device, backend, models, judged)
        drift, measured = _measure_without_drift(device, backend, models, space, references, rng)
        environment, estimates = backend.environment, backend.estimates
    finally:
        backend.close()

    networks = []
    for i, (label, name, predicted, parity) in enumerate(entries):
        latency = measured[i]
        layers = models[i].layers.values()
        result_of_network = {
            "latency_ms": latency.latency_ms,
            "p10_ms": latency.p10_ms,
            "p90_ms": latency.p90_ms,
            "noise": latency.noise,
            "agreed": latency.agreed,
            "validation_accuracy": file_accuracy(judged[i], data.validation),
            "test_accuracy": file_accuracy(judged[i], data.test_part()),
            "memory_bytes": latency.memory_bytes,
        }
        networks.append(
            {
                "label": label,
                "folder": f"export/{device.name}/{name}",
                "architecture": architectures[i].to_json(),
                "macs": sum(layer.macs for layer in layers),
                "params": sum(layer.params for layer in layers),
                "predicted": predicted,
                "measured": result_of_network,
                "parity": parity,
                "violations": violations(limits, result_of_network),
            }
        )
    return {
        "device": device.name,
        "title": device.title,
        "backend": device.backend,
        "dtype": device.dtype,
        "threads": device.threads,
        "batch": device.batch,
        "estimates": estimates,
        "environment": environment,
        "drift": drift,
        "accuracy_of": f"int8 {INTEGER_FILE}" if in_integers else "float32 network.onnx",
        "test_images": len(data.test_part()),
        "networks": networks,
    }


def _measure_without_drift(
    device: DeviceProfile,
    backend: Backend,
    models: list[Model],
    space: SearchSpace,
    references: Mapping[Architecture, Measurement],
    rng: np.random.Generator,
) -> tuple[float, list[Measurement]]:
    """Ratio of the references' latencies to those of profiling (1: no drift), and the models' measurements."""
    then = [measurement.latency_ms for measurement in references.values()]
    known = [m.reference_ms for m in references.values() if m.reference_ms is not None]
    measurer = Measurer(backend, device, rng, best_ms=min(known, default=math.inf))
    items = list(enumerate([*models, *(Model(space.lower(architecture)) for architecture in references)]))
    best: tuple[float, list[Measurement]] | None = None
    with tqdm(total=len(items), desc=f"verify {device.name}", unit="network", disable=None, leave=False) as progress:
        for _ in range(DRIFT_ATTEMPTS):
            progress.reset()
            results: dict[int, Measurement] = {}
            for i, result in measurer.measure(items):
                if isinstance(result, MeasurementError):
                    raise result
                results[i] = result
                progress.update()
            now = [results[i].latency_ms for i in range(len(models), len(items))]
            drift = float(np.median(np.array(now) / then)) if then else 1.0
            if best is None or abs(np.log(drift)) < abs(np.log(best[0])):
                best = drift, [results[i] for i in range(len(models))]
            if max(drift, 1 / drift) <= DRIFT_TOLERANCE:
                break
    assert best is not None
    return best


def violations(limits: dict[str, float | None], measured: dict[str, Any]) -> list[str]:
    """The limits that a measured network exceeds, in words."""
    words = []
    if limits["latency_ms"] is not None and measured["latency_ms"] > limits["latency_ms"]:
        words.append(f"latency {measured['latency_ms']:.4g} ms is above the limit {limits['latency_ms']:.4g} ms")
    if limits["memory_bytes"] is not None and (measured["memory_bytes"] or 0) > limits["memory_bytes"]:
        memory, limit = measured["memory_bytes"] / 1024, limits["memory_bytes"] / 1024
        words.append(f"memory {memory:.1f} KiB is above the limit {limit:.1f} KiB")
    return words


def file_accuracy(path: Path, part: Part) -> float:
    """Fraction of images that an exported network classifies correctly, run in batches of its own in ONNX Runtime."""
    try:
        session = cpu_session(path.read_bytes())
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise DamagedFileError(f"{path} cannot be loaded ({error}). Run `nas export` again.") from error
    batch, _, _, resolution = session.get_inputs()[0].shape
    images, labels = resize(part.images, resolution).numpy(), part.labels.numpy()
    right = 0
    for start in range(0, len(images), batch):
        known = labels[start : start + batch]
        rows = np.arange(start, start + batch).clip(max=len(images) - 1)  # the last image fills the last batch
        right += int((session.run([OUTPUT], {INPUT: images[rows]})[0][: len(known)].argmax(1) == known).sum())
    return right / len(part)


def _check_outputs(device: DeviceProfile, backend: Backend, models: list[Model], files: list[Path]) -> None:
    """Compare what the device computes with the exported file in ONNX Runtime, for the first network."""
    for model, path in list(zip(models, files, strict=True))[:1]:
        batch = np.random.default_rng(0).standard_normal((device.batch, *model.input_shape), np.float32)
        output: NDArray[np.float32] | None = backend.load(model).run(batch)
        if output is None:
            return
        expected = cpu_session(path.read_bytes()).run([OUTPUT], {INPUT: batch})[0]
        difference = float(np.abs(output - expected).max() / max(1.0, float(np.abs(expected).max())))
        if not difference <= DEVICE_TOLERANCE[device.dtype]:
            raise MeasurementError(
                f"Device {device.name!r} computes something else than the exported network {path}: outputs differ by "
                f"{difference:.2g}. Its latencies would mean nothing."
            )
