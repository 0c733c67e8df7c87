"""Losses of a supernet: what each network of a step learns from. One idea per file."""

from nas.supernet.losses.base import Lesson, SupernetLoss, Teacher
from nas.supernet.losses.in_place import InPlaceDistillation
from nas.supernet.losses.labels import Labels

__all__ = ["InPlaceDistillation", "Labels", "Lesson", "SupernetLoss", "Teacher"]
