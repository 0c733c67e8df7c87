import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.core.checkpoint import read_checkpoint
from nas.data import Data
from nas.supernet import Epoch, Supernet, TrainingSettings, train
from nas.supernet.losses import ForeignTeacher, Labels, Lesson
from nas.supernet.losses.foreign import enhanced
from nas.supernet.samplers import SinglePath
from nas.supernet.training import CHECKPOINT
from nas.tasks import Classification, Segmentation
from search_spaces import MobileNetV3
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError, UntrustedError
from search_spaces.layers import Size

MODULE = """
from torch import nn

def mlp(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

def nothing():
    return 3
"""


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of weights of a module that is trusted."""
    from search_spaces.base import trust

    (tmp_path / "teacher_of_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_modules", set())
    trust.trust("teacher_of_tests")
    torch.save(network().state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def test_the_teacher_says_what_its_file_holds(space: MobileNetV3, trusted: Path) -> None:
    before = torch.random.get_rng_state()
    teacher = ForeignTeacher("teacher_of_tests.mlp", str(trusted), 8).teacher(Supernet(space))
    assert torch.equal(torch.random.get_rng_state(), before)
    images = torch.randn(5, 1, 8, 8)

    def view(size: Size) -> Tensor:
        assert size == 8
        return images

    said = teacher(view)
    assert torch.equal(said, network()(images)) and not said.requires_grad


def test_a_teacher_that_is_not_trusted_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_teacher.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UntrustedError, match="--trust strange_teacher"):
        ForeignTeacher("strange_teacher.mlp", "teacher.pt", 8)


def test_teachers_that_do_not_fit_are_refused(space: MobileNetV3, trusted: Path, tmp_path: Path) -> None:
    supernet = Supernet(space)
    with pytest.raises(MismatchError, match="does not hold the weights"):
        ForeignTeacher("teacher_of_tests.mlp", str(trusted), 8, {"classes": 3}).teacher(supernet)
    with pytest.raises(MismatchError, match="does not take images of 1 channels at 12"):
        ForeignTeacher("teacher_of_tests.mlp", str(trusted), 12).teacher(supernet)
    with pytest.raises(InvalidValueError, match=r"torch\.nn\.Module"):
        ForeignTeacher("teacher_of_tests.nothing", str(trusted), 8).teacher(supernet)
    with pytest.raises(InvalidValueError, match="cannot be made"):
        ForeignTeacher("teacher_of_tests.mlp", str(trusted), 8, {"colours": 3}).teacher(supernet)
    (tmp_path / "three.pt").write_bytes(b"no weights")
    with pytest.raises(DamagedFileError, match="weights_only"):
        ForeignTeacher("teacher_of_tests.mlp", str(tmp_path / "three.pt"), 8).teacher(supernet)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).state_dict(), trusted)
    with pytest.raises(MismatchError, match=r"gives \(4,\)"):
        ForeignTeacher("teacher_of_tests.mlp", str(trusted), 8, {"classes": 4}).teacher(supernet)


def test_gamma_trusts_a_sure_teacher_more() -> None:
    student, teacher, labels = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 4, 2])
    task = Classification(5)
    torch.testing.assert_close(enhanced(student, teacher, labels, 1.0), task.imitation(student, teacher))
    p, log_q = teacher.softmax(1), student.log_softmax(1)
    by_hand = 0.0
    for row, label in enumerate(labels.tolist()):
        for c in range(5):
            target = (1 + p[row, c]) ** 1.5 - 1 if c == label else p[row, c] ** 1.5
            by_hand -= float(target * log_q[row, c]) / 4
    assert float(enhanced(student, teacher, labels, 1.5)) == pytest.approx(by_hand, rel=1e-5)
    lesson = Lesson(task, labels, 0.0, outside=teacher)
    loss = ForeignTeacher("nas.data.npz", "teacher.pt", 8, weight=2.0, gamma=1.5)(student, lesson)
    assert float(loss) == pytest.approx(float(functional.cross_entropy(student, labels)) + 2 * by_hand, rel=1e-5)


def test_gamma_of_mixed_images_takes_the_shares_of_their_classes() -> None:
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    shares = torch.tensor([[0.75, 0, 0.25, 0], [0, 1.0, 0, 0]])  # of the first four of five classes
    p, log_q = teacher.softmax(1), student.log_softmax(1)
    y = torch.cat([shares, torch.zeros(2, 1)], 1)
    by_hand = -(((p + y) ** 1.5 - y) * log_q).sum() / 2
    torch.testing.assert_close(enhanced(student, teacher, shares, 1.5), by_hand)
    torch.testing.assert_close(
        enhanced(student[1:], teacher[1:], shares[1:], 1.5), enhanced(student[1:], teacher[1:], torch.tensor([1]), 1.5)
    )


def test_gamma_of_what_has_no_class_is_refused() -> None:
    masks = Lesson(Segmentation(3), torch.zeros(2, 4, 4, dtype=torch.int64), 0.0, outside=torch.randn(2, 3, 4, 4))
    loss = ForeignTeacher("nas.data.npz", "teacher.pt", 8, gamma=1.5)
    with pytest.raises(InvalidValueError, match="`gamma=1`"):
        loss(torch.randn(2, 3, 4, 4), masks)


def test_a_resumed_training_has_the_same_teacher(space: MobileNetV3, data: Data, trusted: Path, tmp_path: Path) -> None:
    loss = ForeignTeacher("teacher_of_tests.mlp", str(trusted), 8)
    settings = TrainingSettings(epochs=2, batch_size=32, sampler=SinglePath(), loss=loss, evaluate_every=0, threads=1)
    whole = train(space, data, settings, tmp_path / "whole").supernet.state_dict()

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(space, data, settings, tmp_path / "parts", on_epoch=stop)
    assert read_checkpoint(tmp_path / "parts" / CHECKPOINT, space)["start"] is None  # the teacher has its own file
    resumed = train(space, data, settings, tmp_path / "parts").supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    plain = dataclasses.replace(settings, loss=Labels())
    alone = train(space, data, plain, tmp_path / "plain").supernet.state_dict()
    assert not all(torch.equal(value, alone[name]) for name, value in whole.items())
