"""Log-mel features of recordings: the energy in bands that are as wide as the ear's.

Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously
Spoken Sentences", IEEE Trans. ASSP 28(4), 1980; the mel scale is O'Shaughnessy's, "Speech Communication", 1987,
2595 log10(1 + f / 700).
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import get_window, resample_poly

from search_spaces.base.errors import InvalidValueError

ENDLESS = 2**31 - 2**12
"""Bytes from which on a WAV file states a length that was not known when it was begun: into a pipe, sox writes this
number or a little more, ffmpeg 2**32 - 1."""
LARGEST_RATE = 2**20
"""Samples per second; filters that resample other rates grow with it."""


@dataclass(frozen=True)
class LogMel:
    """Log-mel features of a recording of any length, shape (1, mels, frames), low bands first; silence is 0.

    Args:
        rate: samples per second; recordings of another rate are resampled.
        seconds: length; of longer recordings it is the middle, shorter ones get silence on both sides.
        mels: bands.
        window_ms: length of a frame.
        hop_ms: time from one frame to the next.
        low_hz: lower end of the lowest band.
        high_hz: upper end of the highest band; None: half the rate.
        floor: energy that counts as silence; a constant at full scale has 1.
    """

    rate: int
    seconds: float = 1.0
    mels: int = 40
    window_ms: float = 32.0
    hop_ms: float = 16.0
    low_hz: float = 20.0
    high_hz: float | None = None
    floor: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "mels", "window_ms", "hop_ms", "floor"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidValueError(f"`{name}` must be a positive number, but got {getattr(self, name)}.")
        if not 0 <= self.low_hz < self.high <= self.rate / 2:
            raise InvalidValueError(
                f"`low_hz` < `high_hz` must be in 0..{self.rate / 2:g}, half the rate, but got {self.low_hz:g} and "
                f"{self.high:g}."
            )
        if not 2 <= self.window <= self.length or self.hop < 1:
            raise InvalidValueError(
                f"`window_ms` must be at least two samples and at most `seconds`, and `hop_ms` at least one sample, "
                f"but got {self.window_ms:g} and {self.hop_ms:g} at {self.rate:,} samples per second."
            )
        if (self.bank.sum(1) == 0).any():
            raise InvalidValueError(
                f"{self.mels} bands are too many for frames of {self.window_ms:g} ms: some lie between frequencies. "
                "Lower `mels` or raise `window_ms`."
            )

    @property
    def high(self) -> float:
        """Upper end of the highest band, Hz."""
        return self.rate / 2 if self.high_hz is None else self.high_hz

    @property
    def length(self) -> int:
        """Samples of a recording."""
        return round(self.seconds * self.rate)

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.window_ms * self.rate / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_ms * self.rate / 1000)

    @property
    def fft(self) -> int:
        """Points of the Fourier transform, a power of two."""
        return 1 << (self.window - 1).bit_length()

    @functools.cached_property
    def bank(self) -> NDArray[np.float64]:
        """Weights (mels, fft // 2 + 1) of the frequencies in each band: triangles of height 1."""
        lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (self.low_hz, self.high))
        corners = 700 * (10 ** (np.linspace(lowest, highest, self.mels + 2) / 2595) - 1)  # Hz, (mels + 2,)
        low, peak, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
        hertz = np.arange(self.fft // 2 + 1) * self.rate / self.fft
        rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
        return np.asarray(np.maximum(0, np.minimum(rising, falling)))

    def features(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Features (1, mels, frames) of samples (n,) in [-1, 1] at the rate."""
        spare = self.length - len(samples)
        if spare < 0:
            samples = samples[-spare // 2 :][: self.length]
        else:
            samples = np.pad(samples, (spare // 2, spare - spare // 2))
        shape = get_window("hann", self.window)
        frames = sliding_window_view(samples, self.window)[:: self.hop] * shape  # (frames, window)
        energy = np.abs(np.fft.rfft(frames, self.fft)) ** 2 / shape.sum() ** 2  # (frames, fft // 2 + 1)
        bands = energy @ self.bank.T  # (frames, mels)
        return np.asarray(np.log1p(bands / self.floor).T[None], np.float32)  # (1, mels, frames)

    def __call__(self, content: bytes) -> NDArray[np.float32]:
        rate, samples = read_wav(content)
        if rate != self.rate:
            common = math.gcd(rate, self.rate)
            samples = resample_poly(samples, self.rate // common, rate // common)
        return self.features(samples)

    @property
    def steps(self) -> list[str]:
        return [
            "samples as fractions of full scale, the mean of all tracks, at "
            f"{self.rate:,} samples per second (others are resampled)",
            f"the middle {self.seconds:g} s; silence on both sides of what is shorter",
            f"frames of {self.window_ms:g} ms ({self.window} samples) every {self.hop_ms:g} ms ({self.hop}), times a "
            f"periodic Hann window, Fourier transform of {self.fft} points, squared magnitude over the squared sum "
            "of the window",
            f"{self.mels} triangular bands of height 1, evenly spaced from {self.low_hz:g} to {self.high:g} Hz in mel "
            "= 2595 log10(1 + Hz / 700), low ones first",
            f"log(1 + energy / {self.floor:g}): bands are rows, frames are columns",
        ]

    def to_json(self) -> dict[str, Any]:
        names = ("rate", "seconds", "mels", "window_ms", "hop_ms", "low_hz")
        return {**{name: getattr(self, name) for name in names}, "high_hz": self.high, "floor": self.floor}


def read_wav(content: bytes) -> tuple[int, NDArray[np.float64]]:
    """Samples per second and samples (n,) as fractions of full scale, the mean of all tracks, of a WAV file.

    Raises:
        InvalidValueError: it is damaged, or of an encoding that is not known.
    """
    stated = int.from_bytes(content[4:8], "big" if content.startswith(b"RIFX") else "little")
    if content[:4] in (b"RIFF", b"RIFX") and len(content) < stated < ENDLESS:
        raise InvalidValueError(
            f"it is cut short: it says that {stated + 8:,} bytes belong to it, but has {len(content):,}"
        )
    try:
        rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # scipy raises several kinds on a damaged file
        raise InvalidValueError(f"{error}") from error
    if not len(samples):
        raise InvalidValueError("it holds no sample")
    if not 1 <= rate <= LARGEST_RATE:
        raise InvalidValueError(f"it says that it has {rate:,} samples per second, too many to be meant")
    return rate, full_scale(samples.mean(1) if samples.ndim > 1 else samples, samples.dtype)


def full_scale(samples: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Samples as fractions of full scale: whole numbers of so many bits, around 0 or, unsigned ones, around half their
    range; others stay."""
    half = 2.0 ** (8 * dtype.itemsize - 1) if dtype.kind in "iu" else 1.0
    return (samples - half if dtype.kind == "u" else samples) / half
