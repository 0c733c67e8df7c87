"""Data: labelled images in three parts, of which the test part is guarded."""

from nas.data.arrays import digits, npz
from nas.data.images import ImageData, Part, resize

__all__ = ["ImageData", "Part", "digits", "npz", "resize"]
