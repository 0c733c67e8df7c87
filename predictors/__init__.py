"""Cheap stand-ins for measuring and training; usable alone, without a supernet and without configuration."""

from predictors.base import Differentiable, Predictor, Trainable, Uncertain
from predictors.gaussian_process import GaussianProcess
from predictors.layer_model import LayerModel, next_layers
from predictors.lookup import CorrectedLookup, Coverage, coverage, plain_sum
from predictors.memory import largest_layer_memory, scaled_memory
from predictors.position_table import PositionTable, macs, params, peak_memory
from predictors.quality import Calibration, Quality, calibration, quality, regret
from predictors.saving import load, save
from predictors.transfer import DeviceTransfer, TransferredLatency
from predictors.zero_cost import PROXIES, ProxyFeatures, ZeroCost

__all__ = [
    "Calibration",
    "CorrectedLookup",
    "Coverage",
    "DeviceTransfer",
    "Differentiable",
    "GaussianProcess",
    "LayerModel",
    "PROXIES",
    "PositionTable",
    "Predictor",
    "ProxyFeatures",
    "Quality",
    "Trainable",
    "TransferredLatency",
    "Uncertain",
    "ZeroCost",
    "calibration",
    "coverage",
    "largest_layer_memory",
    "load",
    "macs",
    "next_layers",
    "params",
    "peak_memory",
    "plain_sum",
    "quality",
    "regret",
    "save",
    "scaled_memory",
]
