"""Tasks: what networks are trained for, and what they are judged by. One task per file."""

from nas.tasks.base import Score, Task
from nas.tasks.classification import Classification
from nas.tasks.detection import Detection
from nas.tasks.multi_label import MultiLabel
from nas.tasks.regression import DenseRegression, VectorRegression
from nas.tasks.segmentation import Segmentation
from nas.tasks.super_resolution import SuperResolution

__all__ = [
    "Classification",
    "DenseRegression",
    "Detection",
    "MultiLabel",
    "VectorRegression",
    "Score",
    "Segmentation",
    "SuperResolution",
    "Task",
]
