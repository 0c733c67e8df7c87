"""Log-mel features against what they should be of tones, silence and noise."""

import io

import numpy as np
import pytest
from scipy.io import wavfile

from nas.data.log_mel import LogMel, full_scale, read_wav
from search_spaces.base.errors import InvalidValueError

RATE = 8000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def test_one_second_is_a_picture_of_bands_and_frames() -> None:
    how = LogMel(RATE)
    found = how.features(tone(1000))
    assert found.shape == (1, 40, 61) and found.dtype == np.float32  # 1 + (8000 - 256) // 128 frames
    assert LogMel(16000, seconds=0.5, mels=32, hop_ms=10).features(tone(440, 0.5, 16000)).shape == (1, 32, 47)


@pytest.mark.parametrize("hertz", [300, 1000, 2000, 3500])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    found = LogMel(RATE).features(tone(hertz)).mean(2)[0]
    peaks = np.linspace(mel(20), mel(4000), 42)[1:-1]  # of the bands
    assert abs(int(found.argmax()) - int(np.abs(peaks - mel(hertz)).argmin())) <= 1
    assert found.max() > np.median(found) + 5


def test_energy_is_counted_from_full_scale() -> None:
    how = LogMel(RATE, mels=10, low_hz=0)
    at_peak = 700 * (10 ** (np.linspace(0, mel(4000), 12)[5] / 2595) - 1)
    bin_hertz = round(at_peak / (RATE / how.fft)) * RATE / how.fft
    column = how.bank[:, round(bin_hertz / (RATE / how.fft))]
    energy = np.expm1(how.features(tone(bin_hertz))[0, :, 30].astype(float)) * how.floor
    # A sine of amplitude 1 has a quarter in its own bin, and through the window a quarter of that in each neighbour.
    assert energy.sum() == pytest.approx(0.25 * (column.sum() + 0.5), rel=0.05)


def test_silence_is_0_and_every_doubling_adds_the_same() -> None:
    how = LogMel(RATE)
    assert not how.features(np.zeros(RATE)).any()
    quiet, loud = (how.features(factor * tone(1000)).max() for factor in (0.25, 0.5))
    assert loud - quiet == pytest.approx(np.log(4), abs=0.01)


def test_long_recordings_lose_their_ends_and_short_ones_get_silence() -> None:
    how = LogMel(RATE)
    middle = tone(1000)
    ends = np.random.default_rng(0).normal(size=501)
    np.testing.assert_array_equal(how.features(np.concatenate([ends, middle, ends])), how.features(middle))
    short = how.features(tone(1000, 0.5))[0]
    assert not short[:, :14].any() and not short[:, -14:].any() and short[:, 20:40].max(0).min() > 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_wav_files_of_every_format(dtype: type) -> None:
    samples = 0.5 * tone(1000)
    if dtype == np.uint8:
        whole = np.round(samples * 127 + 128).astype(dtype)
    else:
        whole = (samples * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    rate, found = read_wav(wav(whole))
    assert rate == RATE
    np.testing.assert_allclose(found, samples, atol=0.01 if dtype == np.uint8 else 1e-4)
    both = np.stack([whole, np.full_like(whole, 128 if dtype == np.uint8 else 0)], 1)
    np.testing.assert_allclose(read_wav(wav(both))[1], samples / 2, atol=0.01 if dtype == np.uint8 else 1e-4)


def test_other_rates_are_resampled() -> None:
    how = LogMel(RATE)
    there, here = how(wav(tone(1000, rate=16000).astype(np.float32), 16000)), how(wav(tone(1000).astype(np.float32)))
    assert there.shape == here.shape
    loudest = int(here[0, :, 30].argmax())
    assert int(there[0, :, 30].argmax()) == loudest
    assert there[0, loudest, 30] == pytest.approx(here[0, loudest, 30], abs=0.02)


@pytest.mark.parametrize("damaged", [b"", b"no sound", wav(np.zeros(100, np.int16))[:30], wav(np.zeros(0, np.int16))])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_recording_is_refused(damaged: bytes) -> None:
    with pytest.raises(InvalidValueError):
        read_wav(damaged)


def test_a_recording_that_is_cut_short_is_refused() -> None:
    whole = wav(np.arange(8000, dtype=np.int16))
    with pytest.raises(InvalidValueError, match="cut short: it says that 16,044 bytes belong to it, but has 8,044"):
        read_wav(whole[:8044])
    stream = whole[:4] + b"\xff" * 4 + whole[8:]  # of a length that was not known
    with pytest.warns(wavfile.WavFileWarning, match="EOF"):
        rate, samples = read_wav(stream)
    assert rate == RATE and len(samples) == 8000


def test_a_rate_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="it has 2,000,000,011 samples per second, too many to be meant"):
        read_wav(wav(np.zeros(8000, np.int16), 2_000_000_011))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mels": 200}, "200 bands are too many for frames of 32 ms.*Lower `mels`"),
        ({"high_hz": 5000.0}, "must be in 0..4000, half the rate, but got 20 and 5,?000"),
        ({"low_hz": 4000.0}, "half the rate"),
        ({"seconds": 0.0}, "`seconds` must be a positive number"),
        ({"window_ms": 2000.0}, "`window_ms` must be at least two samples and at most `seconds`"),
        ({"hop_ms": 0.01}, "`hop_ms` at least one sample"),
    ],
)
def test_settings_are_checked(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        LogMel(RATE, **changes)  # type: ignore[arg-type]


def test_the_steps_give_every_number() -> None:
    how = LogMel(RATE)
    text = " ".join(how.steps)
    for number in ("8,000 samples per second", "32 ms (256 samples) every 16 ms (128)", "256 points", "20 to 4000 Hz"):
        assert number in text
    assert how.to_json()["high_hz"] == 4000 and how.to_json()["floor"] == 1e-8


def test_whole_numbers_are_fractions_of_full_scale() -> None:
    assert full_scale(np.array([-32768, 16384], np.int16), np.dtype(np.int16)).tolist() == [-1, 0.5]
    assert full_scale(np.array([0, 192], np.uint8), np.dtype(np.uint8)).tolist() == [-1, 0.5]
    assert full_scale(np.array([0, 49152], np.uint16), np.dtype(np.uint16)).tolist() == [-1, 0.5]
    assert full_scale(np.array([0.25]), np.dtype(float)).tolist() == [0.25]
