"""Costs of each layer of a network on a device: its share of the time beside its work and its memory traffic."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hardware_profiles.latency_table import SHORTEST_MS, LatencyTable
from predictors import PositionTable
from predictors.additive_model import table_of
from predictors.position_table import macs
from predictors.saving import saved_predictor
from search_spaces.architecture import Architecture
from search_spaces.base.errors import NasError, UntrustedError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class LayerCost:
    """A layer of a network on a device.

    Args:
        position: of the layer.
        kind: of it.
        share: of the network's time, 0 to 1.
        latency_ms: that share of the network's latency.
        macs: multiply-accumulates of an image.
        gmacs_per_s: achieved, in 1e9 multiply-accumulates per second; 0 where no time is left for the layer.
        traffic_words: of an image, see `search_spaces.counting.traffic`.
        intensity: multiply-accumulates per byte of traffic.
        settings: of the layer, its fields in words.
    """

    position: str
    kind: str
    share: float
    latency_ms: float
    macs: int
    gmacs_per_s: float
    traffic_words: int
    intensity: float
    settings: str = ""


def layer_costs(
    layers: Mapping[str, Layer],
    times_ms: Mapping[str, float],
    latency_ms: float,
    *,
    batch: int = 1,
    word_bytes: int = 4,
    buffer_words: int = 0,
) -> list[LayerCost]:
    """Costs of a network's layers, in its order.

    Args:
        layers: by position.
        times_ms: what each takes, by position; their proportions count.
        latency_ms: of the network, which is split in these proportions.
        batch: images that it is of.
        word_bytes: of a number in the format of the device.
        buffer_words: that the on-chip buffer holds.
    """
    total, found = sum(times_ms.values()), []
    for position, layer in layers.items():
        share = times_ms[position] / total
        ms, words = share * latency_ms, layer.traffic(buffer_words)
        rate = 1e-6 * batch * layer.macs / ms if ms > 0 else 0.0
        intensity = layer.macs / (words * word_bytes) if words else 0.0
        kind = type(layer).__name__
        found.append(LayerCost(position, kind, share, ms, layer.macs, rate, words, intensity, settings_of(layer)))
    return found


def settings_of(layer: Layer) -> str:
    """The fields of a layer in words, such as ``kernel 3, stride 2``."""
    return ", ".join(f"{name} {value}" for name, value in layer.to_json().items() if name != "kind")


def whole(costs: Sequence[LayerCost], latency_ms: float, *, batch: int = 1, word_bytes: int = 4) -> LayerCost:
    """Costs of a whole network as those of one layer, from the costs of its layers."""
    macs, words = sum(cost.macs for cost in costs), sum(cost.traffic_words for cost in costs)
    rate, intensity = 1e-6 * batch * macs / latency_ms, macs / (words * word_bytes) if words else 0.0
    return LayerCost("", "network", 1.0, latency_ms, macs, rate, words, intensity)


def times_of(
    folder: Path, space: SearchSpace, device: str, networks: Sequence[Architecture]
) -> list[dict[str, float]] | None:
    """Time of each layer of networks in ms, by position, as far as proportions matter.

    It is what the fitted latency predictor adds up over positions: the latency table, corrected on whole networks.
    Where another kind of predictor is fitted, it is the table as it was measured.

    Args:
        folder: of the run.
        space: of the networks.
        device: its name.
        networks: to split.

    Returns:
        None where neither knows the layers.
    """
    if not networks:
        return []
    values = _fitted(folder, space, device)
    values = _measured(folder, space, device) if values is None else values
    if values is None:
        return None
    names = [position.name for position in space.positions]
    rows = values[space.position_index(np.stack([network.genes for network in networks]))]
    found = [dict(zip(names, row.tolist(), strict=True)) for row in rows]
    found = [{name: times[name] for name in n.layers} for times, n in zip(found, networks, strict=True)]
    return found if all(0 < sum(times.values()) < np.inf for times in found) else None


def _fitted(folder: Path, space: SearchSpace, device: str) -> NDArray[np.float64] | None:
    """Times that the fitted predictor adds up, as `PositionTable.values`; None where it adds up none."""
    file, table = folder / "fit" / f"{device}_latency.npz", None
    if file.exists():
        with contextlib.suppress(UntrustedError):
            table = table_of(saved_predictor(space, file=file))
    if isinstance(table, PositionTable) and table.combine == "sum":
        return np.maximum(table.values, 0.0)  # a fitted term may be below 0
    return None


def _measured(folder: Path, space: SearchSpace, device: str) -> NDArray[np.float64] | None:
    """Times of the latency table, as `PositionTable.values`, inf where it lacks the layer; None without a table."""
    path = folder / "profile" / device / "table.jsonl"
    if not path.exists():
        return None
    times = {layer: measurement.latency_ms for layer, measurement in LatencyTable.read(path).items()}
    return PositionTable.of_layers(space, "latency", "ms", lambda layer: times.get(layer, np.inf)).values


@dataclass(frozen=True)
class Roof:
    """Bounds that no layer of a latency table exceeds on its device.

    Args:
        gmacs_per_s: of the layer that the device runs most efficiently.
        overhead_ms: of the straight line ``overhead + MACs / speed`` below the times of all layers that is nearest to
            them; 0 where small layers take no more than their MACs explain.
    """

    gmacs_per_s: float
    overhead_ms: float


LEFT_OVER = 0.05
"""Share of a layer's measured time that a correction has to leave; with less it says nothing about that layer."""


def roof_of(
    folder: Path,
    space: SearchSpace,
    device: str,
    networks: Sequence[Architecture],
    latencies_ms: Sequence[float],
    batch: int = 1,
) -> Roof | None:
    """The roof that the latency table of a run shows, its times as `layer_costs` has them.

    Args:
        folder: of the run.
        space: of the networks.
        device: its name.
        networks: whose layers are split.
        latencies_ms: of the networks.
        batch: images that the times are of.

    Returns:
        None where there is no table that can be read, or no layer in it has MACs.
    """
    measured = None
    with contextlib.suppress(NasError):  # damaged, or with layers of code that is not trusted: the report goes on
        measured = _measured(folder, space, device)
        split = times_of(folder, space, device, networks)
    if measured is None or not split:
        return None
    scale = float(np.median([ms / sum(times.values()) for ms, times in zip(latencies_ms, split, strict=True)]))
    fitted = _fitted(folder, space, device)
    ms, work = scale * (measured if fitted is None else fitted), batch * macs(space).values
    known = (work > 0) & np.isfinite(measured) & np.isfinite(ms)
    known &= (measured > SHORTEST_MS) & (ms > LEFT_OVER * scale * np.where(known, measured, 0))
    return _roof(work[known], ms[known]) if known.any() else None


def _roof(work: NDArray[np.float64], ms: NDArray[np.float64]) -> Roof:
    """The roof above layers of so many MACs and ms."""
    relative = np.stack([1 / ms, work / ms], axis=1)  # of the line's two terms to each time
    scale = relative.max(0)
    found = linprog(-(relative / scale).sum(0), A_ub=relative / scale, b_ub=np.ones(len(ms)), bounds=(0, None))
    return Roof(float(1e-6 * relative[:, 1].max()), float(np.asarray(found.x)[0] / scale[0]))


def csv_of(networks: Iterable[tuple[str, str, Sequence[LayerCost]]]) -> str:
    """A CSV of layers with a row for each, of (device, network, its layers)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["device", "network", *(field.name for field in fields(LayerCost))])
    for device, network, costs in networks:
        writer.writerows([device, network, *astuple(cost)] for cost in costs)
    return out.getvalue()
