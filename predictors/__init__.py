"""Cheap stand-ins for measuring and training; usable alone, without a supernet and without configuration."""

from predictors.base import Predictor, Trainable
from predictors.gaussian_process import GaussianProcess
from predictors.layer_model import LayerModel, next_layers
from predictors.lookup import CorrectedLookup, Coverage, coverage, plain_sum
from predictors.memory import largest_layer_memory, scaled_memory
from predictors.position_table import PositionTable, macs, params, peak_memory
from predictors.quality import Quality, quality
from predictors.saving import load, save

__all__ = [
    "CorrectedLookup",
    "Coverage",
    "GaussianProcess",
    "LayerModel",
    "PositionTable",
    "Predictor",
    "Quality",
    "Trainable",
    "coverage",
    "largest_layer_memory",
    "load",
    "macs",
    "next_layers",
    "params",
    "peak_memory",
    "plain_sum",
    "quality",
    "save",
    "scaled_memory",
]
