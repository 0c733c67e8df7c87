"""Data: labelled images in three parts, of which the test part is guarded."""

from nas.data.arrays import digits, npz
from nas.data.images import ImageData, Part, resize
from nas.data.loading import load_data

__all__ = ["ImageData", "Part", "digits", "load_data", "npz", "resize"]
