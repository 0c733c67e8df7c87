"""Data: inputs with their targets in three parts, of which the test part is guarded."""

from nas.data.arrays import digits, npz
from nas.data.base import Batch, Data, Samples
from nas.data.batches import batches, in_order, rows_of, to_device
from nas.data.images import Part, resize
from nas.data.loading import load_data

__all__ = [
    "Batch",
    "Data",
    "Part",
    "Samples",
    "batches",
    "digits",
    "in_order",
    "load_data",
    "npz",
    "resize",
    "rows_of",
    "to_device",
]
