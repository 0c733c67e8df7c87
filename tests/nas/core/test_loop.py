"""The loop of every training, with one number that is trained."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.core.checkpoint import read_checkpoint
from nas.core.loop import Loop, Losses, check_device
from search_spaces import MobileNetV3
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, NasError


class Halving(Loop[float]):
    """A number that every epoch halves; its loss is that of each step."""

    def __init__(
        self,
        space: MobileNetV3,
        path: Path | None,
        *,
        epochs: int = 4,
        kind: str = "halving",
        bad: float = 1,
        **more: Any,
    ) -> None:
        super().__init__(space, "halve", epochs, path, **more)
        self.value, self.kind, self.bad = torch.tensor(16.0), kind, bad

    def epoch(self, number: int) -> float:
        losses = Losses(self.device)
        for _ in range(3):
            losses.add(self.value * (self.bad if number == 2 else 1))
        self.check(losses)
        self.value = self.value / 2
        return losses.mean()

    def words(self, record: float) -> Mapping[str, str]:
        return {"loss": f"{record}"}

    def content(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "value": self.value, "records": self.records}

    def accepts(self, content: Mapping[str, Any]) -> bool:
        if content["kind"] == "doubling":
            raise MismatchError("another kind")
        return bool(content["kind"] == self.kind)

    def load(self, content: Mapping[str, Any]) -> list[float]:
        self.value = content["value"]
        return list(content["records"])


def test_a_stopped_training_goes_on(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    path, seen = tmp_path / "a.pt", list[float]()

    def stop(record: float) -> None:
        seen.append(record)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Halving(tiny_space, path).finish(stop)
    again = Halving(tiny_space, path)
    assert again.finish(seen.append) == seen == [16.0, 8.0, 4.0, 2.0]
    assert float(again.value) == 1 and again.saved == 4
    assert Halving(tiny_space, path).finish(seen.append) == seen  # nothing is left to do


def test_a_checkpoint_follows_some_epochs_and_the_last(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    path, saved = tmp_path / "a.pt", list[int]()
    loop = Halving(tiny_space, path, epochs=5, checkpoint_every=2, keep_checkpoints=2)
    loop.finish(lambda record: saved.append(loop.saved))
    assert saved == [0, 2, 2, 4, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "a_0004.pt", "a_0005.pt"]
    assert float(read_checkpoint(tmp_path / "a_0004.pt", tiny_space)["value"]) == 1


def test_numbers_that_are_not_finite_end_it_and_what_was_kept_is_said(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(NasError, match=r"loss of training .* in epoch 3, step 1\. The state after epoch 2 is kept in"):
        Halving(tiny_space, path, bad=math.nan).finish()
    assert Halving(tiny_space, path).finish() == [16.0, 8.0, 4.0, 2.0]
    with pytest.raises(NasError, match=r"in epoch 3, step 1\. Lower"):
        Halving(tiny_space, None, bad=math.inf).finish()


def test_checkpoints_of_others_are_refused_or_made_anew(tiny_space: MobileNetV3, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    Halving(tiny_space, path, kind="doubling").save()
    with pytest.raises(MismatchError, match="another kind"):
        Halving(tiny_space, path).finish()
    Halving(tiny_space, path, kind="thirds").save()
    assert Halving(tiny_space, path).finish() == [16.0, 8.0, 4.0, 2.0]
    path.write_bytes(b"nothing")
    with pytest.raises(DamagedFileError, match="no file of weights"):
        Halving(tiny_space, path).finish()


def test_followers_write_nothing(tiny_space: MobileNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Halving(tiny_space, tmp_path / "a.pt")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    loop.save()
    assert not list(tmp_path.iterdir())


def test_the_first_wrong_step_is_known() -> None:
    losses = Losses(torch.device("cpu"))
    for values in ([1.0, 2.0], [3.0, math.inf], [math.nan, 1.0]):
        assert losses.wrong is None or losses.wrong == 2
        losses.add(torch.tensor(values))
    assert losses.wrong == 2
    fine = Losses(torch.device("cpu"))
    fine.add(torch.tensor(1.0))
    fine.add(torch.tensor([2.0, 9.0]))
    assert fine.mean() == 1.5 and fine.wrong is None


def test_a_device_that_is_not_there_is_refused() -> None:
    check_device("cpu", "training.device")
    with pytest.raises(InvalidValueError, match="`training.device=nowhere` cannot be used here.*training.device=cpu"):
        check_device("nowhere", "training.device")
