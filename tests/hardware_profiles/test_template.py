import dataclasses
from pathlib import Path

import pytest
import yaml

from hardware_profiles import DeviceProfile, device_names, load_device
from hardware_profiles.backends.base import Capabilities
from hardware_profiles.device import backend_module, backend_names
from hardware_profiles.template import device_template, explained_settings
from search_spaces.base.errors import DeviceUnavailableError, UnknownNameError


def written(folder: Path, text: str) -> DeviceProfile:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_device(str(path))


def capabilities_of(backend: str) -> Capabilities:
    try:
        capabilities: Capabilities = backend_module(backend, "the test").CAPABILITIES
    except DeviceUnavailableError as error:
        pytest.skip(str(error))
    return capabilities


def test_every_setting_is_explained() -> None:
    explained = explained_settings()
    assert list(explained) == [field.name for field in dataclasses.fields(DeviceProfile)]
    assert explained["batch"] == "images per run."
    assert explained["loads"].startswith("how often") and explained["loads"].endswith("other places in memory.")


@pytest.mark.parametrize("backend", backend_names())
def test_it_loads_as_it_is_and_suits_its_backend(tmp_path: Path, backend: str) -> None:
    capabilities = capabilities_of(backend)
    text = device_template("mine", backend)
    profile = written(tmp_path, text)
    assert (profile.name, profile.title, profile.backend) == ("mine", "mine", backend)
    assert profile.dtype in capabilities.dtypes and set(capabilities.required) <= set(profile.options)
    assert (profile.batch == 1 or capabilities.batch) and (profile.threads == 1 or capabilities.threads)
    for name in [*explained_settings(), *capabilities.options]:
        if name != "name":
            assert sum(line.strip().lstrip("#").startswith(f"{name}:") for line in text.splitlines()) == 1, name
    if capabilities.required:
        examples = [p for p in map(load_device, device_names()) if p.backend == backend]
        assert profile.options == examples[0].options and profile.passes == examples[0].passes


@pytest.mark.parametrize("backend", backend_names())
def test_its_defaults_are_those_of_a_profile(tmp_path: Path, backend: str) -> None:
    """Taking away each # that says so changes nothing."""
    capabilities_of(backend)
    text = device_template("mine", backend)
    lines = [
        line.removeprefix("#") if line.startswith("#") and line[1:2] != " " else line for line in text.splitlines()
    ]
    assert written(tmp_path, "\n".join(lines)) == written(tmp_path, text)
    data = yaml.safe_load("\n".join(lines))
    assert set(data) == {field.name for field in dataclasses.fields(DeviceProfile)} - {"name"}


def test_an_unknown_backend_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="'onnxruntme', which is unknown.*Did you mean 'onnxruntime'"):
        device_template("mine", "onnxruntme")
