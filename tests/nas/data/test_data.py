from pathlib import Path

import numpy as np
import pytest
import torch

from nas.data import Data, Part, digits, npz, resize
from nas.tasks import Classification
from search_spaces.base.errors import DamagedFileError, InvalidValueError, StorageError


def all_parts(data: Data) -> list[Part]:
    return [data.train, data.validation, data.test_part()]


def test_digits_are_split_by_class_and_normalised_by_the_training_part() -> None:
    data = digits()
    parts = all_parts(data)
    assert [len(part) for part in parts] == pytest.approx([898, 540, 359], abs=5)
    assert sum(map(len, parts)) == 1797
    assert (data.task.classes, data.channels, data.resolution) == (10, 1, 8)
    shares = torch.stack([torch.bincount(part.labels, minlength=10) / len(part) for part in parts])
    assert float((shares - shares[0]).abs().max()) < 0.01
    assert float(data.train.images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train.images.std()) == pytest.approx(1, abs=1e-3)
    assert float(data.train.images.min()) == pytest.approx(float(data.black))


def test_the_parts_are_the_whole_without_overlap() -> None:
    from sklearn.datasets import load_digits

    data = digits()
    images = torch.cat([part.images for part in all_parts(data)]) * data.std[0] + data.mean[0]
    found = np.round(images.numpy().reshape(-1, 64) * 16).astype(int)
    expected = load_digits().data.astype(int)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_the_seed_makes_the_split() -> None:
    first, again, other = digits(seed=0), digits(seed=0), digits(seed=1)
    assert torch.equal(first.test_part().images, again.test_part().images)
    assert not torch.equal(first.test_part().labels, other.test_part().labels)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_test_part_is_no_attribute() -> None:
    data = digits()
    assert not hasattr(data, "test")
    assert "test" not in repr(data)


def test_fractions_are_checked() -> None:
    for fractions in ([0.5, 0.5], [0.6, 0.2, 0.3], [1.0, 0.0, 0.0]):
        with pytest.raises(InvalidValueError, match="fractions"):
            digits(fractions=fractions)


def test_resize_keeps_what_fits_and_averages_what_shrinks() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert resize(images, 8) is images
    assert resize(images, 12).shape == (2, 3, 12, 12)
    constant = resize(torch.full((1, 1, 8, 8), 0.7), 5)
    torch.testing.assert_close(constant, torch.full((1, 1, 5, 5), 0.7))
    board = (torch.arange(64).reshape(1, 1, 8, 8) // 8 + torch.arange(8)) % 2 * 1.0
    assert float((resize(board, 4) - 0.5).abs().max()) < 0.1  # without antialiasing a checkerboard would stay one


def part(n: int = 4, **changes: torch.Tensor) -> Part:
    fields = {"images": torch.zeros(n, 1, 8, 8), "labels": torch.zeros(n, dtype=torch.int64)} | changes
    return Part(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(4, 8, 8)}, "channel is missing"),
        ({"images": torch.zeros(4, 64)}, "channels of rows of pixels"),
        ({"images": torch.zeros(0, 1, 8, 8)}, "no image"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.float64)}, "float32"),
        ({"images": torch.full((4, 1, 8, 8), torch.nan)}, "NaN"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one per image"),
    ],
)
def test_parts_are_checked(changes: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        part(**changes)


def test_parts_must_fit_together() -> None:
    def data(test: Part, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)) -> Data:
        return Data("mine", part(), part(), test, task=Classification(2), mean=mean, std=std)

    data(part())
    with pytest.raises(InvalidValueError, match="test of 'mine' must be in 0..1, but got 5..5"):
        data(part(labels=torch.full((4,), 5)))
    with pytest.raises(InvalidValueError, match="int64"):
        data(part(labels=torch.zeros(4)))
    with pytest.raises(InvalidValueError, match="got -1..-1"):
        data(part(labels=torch.full((4,), -1)))
    with pytest.raises(InvalidValueError, match="one shape"):
        data(part(images=torch.zeros(4, 3, 8, 8)))
    with pytest.raises(InvalidValueError, match="std"):
        data(part(), std=(0.0,))
    with pytest.raises(InvalidValueError, match="mean"):
        data(part(), mean=(0.0, 0.0))


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_npz_with_its_own_split(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int32) % 3
    split = np.array(["train"] * 6 + ["validation"] * 3 + ["test"] * 3)
    data = npz(save(tmp_path / "mine.npz", images=images, labels=labels, split=split))
    assert (data.name, data.task.classes, data.channels, data.resolution) == ("mine", 3, 3, 6)
    assert [len(p) for p in all_parts(data)] == [6, 3, 3]
    raw = data.validation.images * torch.tensor(data.std).reshape(-1, 1, 1) + torch.tensor(data.mean).reshape(-1, 1, 1)
    torch.testing.assert_close(raw, torch.from_numpy(images[6:9] / 255).float(), atol=1e-5, rtol=0)


def test_npz_is_split_where_it_gives_no_split(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((40, 6, 6))
    data = npz(save(tmp_path / "mine.npz", images=images, labels=np.repeat([0, 1], 20)), name="two")
    assert data.name == "two" and [len(p) for p in all_parts(data)] == [20, 12, 8]
    assert all(int(p.labels.sum()) * 2 == len(p) for p in all_parts(data))


def test_npz_is_checked(tmp_path: Path) -> None:
    path, images, labels = tmp_path / "mine.npz", np.zeros((20, 4, 4)), np.arange(20) % 2
    with pytest.raises(StorageError):
        npz(str(path))
    path.write_bytes(b"nonsense")
    with pytest.raises(DamagedFileError):
        npz(str(path))
    named = np.array(["train", "dev", "test", "test"] * 5)
    wrong: list[tuple[str, dict[str, np.ndarray]]] = [
        ("must hold", {"images": images}),
        ("numbers", {"images": images[0], "labels": labels}),
        ("numbers", {"images": np.full((20, 4, 4), "a"), "labels": labels}),
        ("no image", {"images": np.zeros((20, 1, 0, 5)), "labels": labels}),
        ("integers", {"images": images, "labels": labels / 2}),
        ("integers", {"images": images, "labels": labels[:3]}),
        ("must give each of 20 samples", {"images": images, "labels": labels, "split": np.array(["train"] * 19)}),
        ("train, validation, test, .* but got 'dev'", {"images": images, "labels": labels, "split": named}),
        ("needs an image", {"images": images[:2], "labels": labels[:2]}),
        ("`images` of .*mine.npz must be finite", {"images": np.full((20, 4, 4), np.nan), "labels": labels}),
        ("`images` of .*mine.npz must be finite", {"images": np.full((20, 4, 4), np.inf), "labels": labels}),
        ("`images` of .*mine.npz must be finite", {"images": np.full((20, 4, 4), 1e300), "labels": labels}),
    ]
    for message, arrays in wrong:
        with pytest.raises(InvalidValueError, match=message):
            npz(save(path, **arrays))


def test_the_scale_of_raw_pixels_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 8, 8)), np.arange(60) % 3
    for dtype, scale in ((np.uint8, 255), (np.float32, 1)):
        np.savez(tmp_path / "a.npz", images=pixels.astype(dtype), labels=labels)
        data = npz(str(tmp_path / "a.npz"))
        assert data.scale == scale
        mean, std = np.array(data.mean), np.array(data.std)
        raw = (data.train.images.numpy() * std + mean) * data.scale
        assert {image.tobytes() for image in raw.round().astype(int)[:, 0]} <= {image.tobytes() for image in pixels}


@pytest.mark.parametrize(
    ("labels", "found"),
    [([0, 255] * 30, "2 different ones in 0..255"), ([*range(1, 11)] * 6, "10 different ones in 1..10")],
)
def test_labels_count_from_0_without_a_gap(tmp_path: Path, labels: list[int], found: str) -> None:
    images = np.random.default_rng(0).random((60, 4, 4))
    path = save(tmp_path / "mine.npz", images=images, labels=np.array(labels))
    with pytest.raises(InvalidValueError, match=f"{found}.*Renumber them, numpy.unique"):
        npz(path)
    with pytest.raises(InvalidValueError, match=r"must be in 0\.\.1"):
        npz(path, classes=2)
    assert npz(path, classes=300).task.classes == 300  # some without an image on purpose
    renumbered = np.unique(labels, return_inverse=True)[1]
    assert npz(save(tmp_path / "right.npz", images=images, labels=renumbered)).task.classes == len(set(labels))


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((20, 8, 8, 3), r"channels last: images\.transpose\(0, 3, 1, 2\)"),
        ((20, 8, 6, 1), r"channels last: images\.transpose\(0, 3, 1, 2\)"),
        ((20, 3, 8, 0), "There is no image"),
    ],
)
def test_images_of_a_wrong_shape_are_told_the_cure(tmp_path: Path, shape: tuple[int, ...], cure: str) -> None:
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    with pytest.raises(InvalidValueError, match=f"mine.npz must have shape .N, C, H, W., channels first.*{cure}"):
        npz(save(tmp_path / "mine.npz", images=images, labels=np.arange(20) % 2), layout="channels_first")
    if len(shape) == 4:
        with pytest.raises(InvalidValueError, match=cure):
            part(20, images=torch.from_numpy(images))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_may_be_last(tmp_path: Path, channels: int) -> None:
    images, labels = np.random.default_rng(0).random((20, 8, 6, channels)), np.arange(20) % 2
    first = npz(save(tmp_path / "mine.npz", images=images.transpose(0, 3, 1, 2), labels=labels))
    path = save(tmp_path / "mine.npz", images=images, labels=labels)
    told, said = npz(path), npz(path, layout="channels_last")
    assert first.train.shape == (channels, 8, 6)
    assert told.fingerprint == said.fingerprint == first.fingerprint and first.notes == said.notes == ()
    (note,) = told.notes
    assert note == (
        f"`images` of {path}, shape (20, 8, 6, {channels}), are read as channels last; if they are that narrow, "
        "images.transpose(0, 1, 3, 2) lays them on their side"
    )
    with pytest.raises(InvalidValueError, match="channels first"):
        npz(path, layout="channels_first")
    with pytest.raises(InvalidValueError, match="`layout` must be auto, channels_first or channels_last"):
        npz(path, layout="last")  # type: ignore[arg-type]
    lying = save(tmp_path / "mine.npz", images=images.transpose(0, 1, 3, 2), labels=labels)
    assert npz(lying).train.shape == (8, channels, 6) and npz(lying).notes == ()


def test_channels_that_only_a_setting_tells(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((20, 8, 8, 12)), np.arange(20) % 2
    path = save(tmp_path / "mine.npz", images=images, labels=labels)
    assert npz(path).train.shape == (8, 8, 12) and npz(path, layout="channels_last").train.shape == (12, 8, 8)


def test_names_and_numbers_of_parts_in_an_npz(tmp_path: Path) -> None:
    images, labels, names = np.random.default_rng(0).random((20, 6, 6)), np.arange(20) % 2, np.array(["cat", "dog"])
    path = save(tmp_path / "mine.npz", images=images, labels=labels, names=names, split=np.arange(20) % 3)
    data = npz(path)
    assert data.task == Classification(2, ("cat", "dog")) and [len(part) for part in all_parts(data)] == [7, 7, 6]
    with pytest.raises(InvalidValueError, match="must be in 0..0, as there are 1 classes"):
        npz(save(tmp_path / "mine.npz", images=images, labels=labels, names=names[:1]))


def test_a_constant_channel_is_noted_and_stays_0(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 3, 6, 6)).astype(np.float32)
    images[:, 1] = 0.1
    data = npz(save(tmp_path / "mine.npz", images=images, labels=np.arange(20) % 2))
    assert data.notes == ("channel 1 of 'mine' is the same everywhere in train: nothing can be learned from it",)
    assert data.std[1] == 1 and float(data.train.images[:, 1].abs().max()) < 1e-6


def test_images_of_any_height_and_width(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((20, 8, 6))
    tall = npz(save(tmp_path / "mine.npz", images=pixels, labels=np.arange(20) % 2))
    assert (tall.channels, tall.resolution, tall.train.images.shape[1:]) == (1, (8, 6), (1, 8, 6))
    raw = torch.cat([part.images for part in all_parts(tall)]) * tall.std[0] + tall.mean[0]
    np.testing.assert_allclose(sorted(raw.sum((1, 2, 3)).tolist()), sorted(pixels.sum((1, 2)).tolist()), rtol=1e-5)
    assert npz(save(tmp_path / "narrow.npz", images=pixels[:, None, :, :1], labels=np.arange(20) % 2)).resolution == (
        8,
        1,
    )


def test_equal_pixels_of_another_shape_are_another_task(tmp_path: Path) -> None:
    pixels, labels = np.random.default_rng(0).random((20, 12, 3)), np.arange(20) % 2
    shapes = ((12, 3), (3, 12), (6, 6))
    sets = [npz(save(tmp_path / "mine.npz", images=pixels.reshape(20, *one), labels=labels)) for one in shapes]
    assert [len({data.fingerprint for data in sets}), len({data.test_fingerprint for data in sets})] == [3, 3]


def test_fingerprints_of_squares_stay() -> None:
    assert (digits().fingerprint, digits().test_fingerprint) == ("e63075e44816642b", "7ea728999b211f16")
