"""Data: inputs with their targets in three parts, of which the test part is guarded."""

from nas.data.arrays import digits, npz
from nas.data.base import Batch, Data, Preparation, Samples
from nas.data.batches import batches, in_order, rows_of, to_device
from nas.data.cifar_files import cifar
from nas.data.folders import folder
from nas.data.images import Part, resize
from nas.data.imbalanced import imbalanced
from nas.data.loading import data_of_run, load_data
from nas.data.packed import packed_images
from nas.data.sounds import recordings
from nas.data.stored import Source, Stored, leak_notes, stored_data
from nas.data.targets import dense_regression, detection, multi_label, regression, segmentation, super_resolution
from nas.data.torch_datasets import torch_dataset

__all__ = [
    "Batch",
    "Data",
    "Part",
    "Preparation",
    "Samples",
    "Source",
    "Stored",
    "batches",
    "cifar",
    "data_of_run",
    "dense_regression",
    "detection",
    "digits",
    "folder",
    "imbalanced",
    "in_order",
    "leak_notes",
    "load_data",
    "multi_label",
    "npz",
    "packed_images",
    "recordings",
    "regression",
    "resize",
    "rows_of",
    "segmentation",
    "stored_data",
    "super_resolution",
    "to_device",
    "torch_dataset",
]
