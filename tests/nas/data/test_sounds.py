"""Recordings in folders and in packed files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from nas.data import recordings
from nas.data.log_mel import LogMel
from search_spaces.base.errors import InvalidValueError

RATE = 8000


def sound(seed: int) -> np.ndarray:
    """Between half a second and one and a half of noise."""
    rng = np.random.default_rng(seed)
    return rng.integers(-9000, 9000, int(rng.integers(4000, 12000)), dtype=np.int16)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    for label, word in enumerate(("no", "yes")):
        (tmp_path / "words" / word).mkdir(parents=True)
        for number in range(10):
            wavfile.write(tmp_path / "words" / word / f"{number}.wav", RATE, sound(10 * label + number))
    return tmp_path / "words"


def packed(path: Path, **more: np.ndarray) -> str:
    sounds = [sound(seed) for seed in range(20)]
    offsets = np.cumsum([0, *map(len, sounds)])
    arrays = {"samples": np.concatenate(sounds), "offsets": offsets, "labels": np.repeat([0, 1], 10), **more}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_folders_and_packed_files_give_the_same_features(words: Path, tmp_path: Path) -> None:
    one, other = recordings(str(words)), recordings(packed(tmp_path / "words.npz"), rate=RATE)
    assert (one.train.shape, one.kind, one.scale, one.channels) == ((1, 40, 61), "recording", 1.0, 1)
    assert one.task.names == ("no", "yes") and other.task.names == ()
    assert isinstance(one.preparation, LogMel) and one.preparation == other.preparation
    for rows in (torch.arange(16),):
        for here, there in zip(one.train.take(rows), other.train.take(rows), strict=True):
            torch.testing.assert_close(here, there)
    images, _ = one.train.take(torch.tensor([2]))
    expected = one.preparation.features(sound(int(one.train.rows[2])) / 32768)
    np.testing.assert_allclose(images[0] * one.std[0] + one.mean[0], expected, atol=1e-4)


def test_silence_is_what_black_is_to_images(words: Path) -> None:
    data = recordings(str(words), seconds=2)  # with silence on both sides
    images, _ = data.train.take(torch.arange(4))
    assert float(images[:, :, :, 0].mean()) == pytest.approx(float(data.black), abs=1e-5)


def test_the_rate_is_said_where_the_file_does_not_know_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="does not hold the `rate` of its samples.*`data.rate=8000`"):
        recordings(packed(tmp_path / "words.npz"))
    data = recordings(packed(tmp_path / "known.npz", rate=np.array(RATE), names=np.array(["no", "yes"])))
    assert data.preparation == LogMel(RATE) and data.task.names == ("no", "yes")
    for wrong in (np.full(20, RATE), np.array(8000.5)):
        with pytest.raises(InvalidValueError, match="`rate` of .*wrong.npz must be one whole number"):
            recordings(packed(tmp_path / "wrong.npz", rate=wrong))


def test_settings_make_the_shape_and_the_fingerprint(words: Path) -> None:
    plain, fine = recordings(str(words)), recordings(str(words), hop_ms=8, mels=32)
    assert fine.train.shape == (1, 32, 122) and fine.fingerprint != plain.fingerprint
    assert recordings(str(words), rate=4000).train.shape == (1, 40, 61)


def test_damaged_recordings_are_named(words: Path) -> None:
    (words / "yes" / "3.wav").write_bytes(b"no sound")
    with pytest.raises(InvalidValueError, match="1 of 20 recordings of 'words' is damaged: yes/3.wav"):
        recordings(str(words))
    (words / "no" / "0.wav").write_bytes(b"no sound")
    with pytest.raises(InvalidValueError, match="no/0.wav is damaged .*Delete or replace it"):
        recordings(str(words))
