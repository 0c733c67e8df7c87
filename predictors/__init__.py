"""Cheap stand-ins for measuring and training; usable alone, without a supernet and without configuration."""

from predictors.base import Predictor, Trainable
from predictors.gaussian_process import GaussianProcess
from predictors.lookup import CorrectedLookup, plain_sum
from predictors.memory import largest_layer_memory, scaled_memory
from predictors.position_table import PositionTable, macs, params, peak_memory
from predictors.quality import Quality, quality
from predictors.saving import load, save

__all__ = [
    "CorrectedLookup",
    "GaussianProcess",
    "PositionTable",
    "Predictor",
    "Quality",
    "Trainable",
    "largest_layer_memory",
    "load",
    "macs",
    "params",
    "peak_memory",
    "plain_sum",
    "quality",
    "save",
    "scaled_memory",
]
