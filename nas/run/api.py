"""What a user calls from Python: each function takes objects or their names, and makes what a stage of a run makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.device import DeviceProfile, load_device
from nas.run.settings import CONF
from search_spaces.base.building import build, named
from search_spaces.loading import load_space
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import ImageData


def space(name: str | Path, /, **changes: Any) -> SearchSpace:
    """The search space of a name, of a YAML file or of a dotted path.

    Args:
        name: such as ``ofa_mobilenet_v3``, ``mine.yaml`` or ``mymodule.MySpace``.
        changes: settings in place of those of the YAML.

    >>> nas.space("mobilenet_v3_digits", resolutions=[12]).size
    17173512
    """
    return load_space(name, **changes)


def device(name: str | Path, /, **changes: Any) -> DeviceProfile:
    """The profile of a device by name, or by the path of a YAML file; `nas devices` lists the names.

    >>> nas.device("host_ort", batch=4).title
    'This computer, ONNX Runtime, 1 thread'
    """
    return load_device(name, **changes)


def dataset(name: str | Path, /, **changes: Any) -> ImageData:
    """Labelled images by name, by a YAML file, or by the dotted path of a function that gives them.

    >>> len(nas.dataset("digits", fractions=[0.6, 0.2, 0.2]).train)
    1078
    """
    from nas.data import ImageData

    data: ImageData = build(str(name), named("data", name, CONF / "data", changes), ImageData)
    return data
