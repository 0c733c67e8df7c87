"""The command that each YAML of data and each recipe opens with, planned on small data of the form that it names."""

import dataclasses
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.io import wavfile

from nas.pipeline import checks
from nas.run.settings import CONF
from nas.supernet import TrainingSettings
from search_spaces.base import trust

COMMANDS = {
    f"{path.parent.name} {path.stem}": next(
        line.removeprefix("# nas ") for line in path.read_text().splitlines() if line.startswith("# nas ")
    )
    for folder in ("data", "recipe")
    for path in sorted((CONF / folder).glob("*.yaml"))
}
"""Group and name of a file -> the words behind ``nas`` of the command that it opens with."""
COUNT = 60
MODULE = """
import numpy as np
from torch.utils.data import Dataset

class Train(Dataset):
    count = 60

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return np.full((1, 12, 12), number, np.uint8), number % 10

class Validation(Train):
    count = 20
"""
RNG = np.random.default_rng(0)


def pixels(channels: int, height: int, width: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (COUNT, channels, height, width)).astype(np.uint8)


def packed(images: NDArray[np.uint8]) -> dict[str, Any]:
    """Arrays of images as JPEGs one after the other."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG")
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    return {"body": np.concatenate(files), "offsets": np.cumsum([0, *map(len, files)])}


def class_folders(root: Path, names: tuple[str, ...], write: Callable[[Path], None], ending: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(COUNT // len(names)):
            write(root / name / f"{number}{ending}")


def made(name: str) -> None:
    """Write the files that the command of a YAML names into the current folder."""
    numbers = np.arange(COUNT)
    arrays: dict[str, Any] = {}
    match name:
        case "cifar":
            Path("cifar-10-batches-bin").mkdir()
            records = [np.concatenate([[number % 10], image.ravel()]) for number, image in enumerate(pixels(3, 32, 32))]
            for file in ("data_batch_1.bin", "test_batch.bin"):
                (Path("cifar-10-batches-bin") / file).write_bytes(np.array(records, np.uint8).tobytes())
        case "folder":
            photo = pixels(3, 20, 30).transpose(0, 2, 3, 1)
            class_folders(
                Path("photos"),
                ("cat", "dog", "owl"),
                lambda path: Image.fromarray(photo[RNG.integers(60)]).save(path),
                ".png",
            )
        case "recordings":
            class_folders(
                Path("words"),
                ("no", "yes"),
                lambda path: wavfile.write(path, 8000, RNG.integers(-9000, 9000, 8000).astype(np.int16)),
                ".wav",
            )
        case "torch_dataset":
            Path("mydata.py").write_text(MODULE)
        case "imbalanced":
            np.savez("images.npz", images=pixels(1, 12, 12), labels=numbers % 10)
            Path("mine.yaml").write_text("_target_: nas.data.npz\npath: images.npz\n")
        case "super_resolution":
            np.savez("images.npz", images=pixels(3, 96, 96), labels=numbers % 2)
            Path("mine.yaml").write_text("_target_: nas.data.npz\npath: images.npz\n")
        case "npz":
            np.savez("images.npz", images=pixels(3, 12, 12), labels=numbers % 3)
        case "packed_images":
            np.savez("cifar10_jpeg.npz", **packed(pixels(3, 32, 32)), labels=numbers % 5)
        case "segmentation":
            masks = RNG.integers(0, 12, (COUNT, 60, 80)).astype(np.uint8)
            np.savez("camvid_segmentation.npz", **packed(pixels(3, 60, 80)), masks=masks)
        case "detection":
            boxes = np.tile(np.array([[2, 3, 40, 50]], np.float32), (COUNT, 1))
            arrays = {"boxes": boxes, "box_labels": numbers % 3, "box_image": numbers}
            np.savez("bccd_detection.npz", **packed(pixels(3, 60, 80)), **arrays)
        case "regression":
            np.savez("mine.npz", images=pixels(1, 12, 12), values=numbers * 1.0)
        case "dense_regression":
            np.savez("mine.npz", images=pixels(3, 60, 80), maps=RNG.random((COUNT, 60, 80)))
        case "multi_label":
            np.savez("mine.npz", images=pixels(1, 12, 12), labels=RNG.integers(0, 2, (COUNT, 10)))


def test_recipes_name_settings_of_the_training_that_there_are() -> None:
    known = {field.name for field in dataclasses.fields(TrainingSettings)}
    for path in (CONF / "recipe").glob("*.yaml"):
        assert set(yaml.safe_load(path.read_text()).get("training", {})) <= known, path


@pytest.mark.slow
@pytest.mark.parametrize("file", COMMANDS)
def test_the_command_of_a_yaml_is_accepted(
    file: str, nas_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_modules", set(trust._modules))  # for this test alone
    monkeypatch.setattr(checks, "_tried", lambda run, settings: (1.0, 0.1))  # how long it takes is not looked at
    group, name = file.split()
    if group == "data" or name != "super_resolution":  # whose recipe takes the digits
        made(name)
    stage, *words = shlex.split(COMMANDS[file])
    assert stage in ("run", "train")
    outcome = nas_command("run", "--plan", *words, own=False)
    sys.modules.pop("mydata", None)
    assert outcome.code == 0, outcome.err
