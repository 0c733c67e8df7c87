"""Losses of a supernet: what each network of a step learns from. One idea per file."""

from nas.supernet.losses.alpha_divergence import AlphaDivergence
from nas.supernet.losses.base import Independent, InsideLoss, Lesson, SupernetLoss, Teacher
from nas.supernet.losses.blockwise import Blockwise
from nas.supernet.losses.distillation import Distillation
from nas.supernet.losses.foreign import ForeignTeacher
from nas.supernet.losses.frozen import FrozenBiggest
from nas.supernet.losses.in_place import InPlaceDistillation
from nas.supernet.losses.labels import Labels

__all__ = [
    "AlphaDivergence",
    "Blockwise",
    "Distillation",
    "ForeignTeacher",
    "FrozenBiggest",
    "InPlaceDistillation",
    "Independent",
    "InsideLoss",
    "Labels",
    "Lesson",
    "SupernetLoss",
    "Teacher",
]
