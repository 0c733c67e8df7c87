"""Cheap stand-ins for measuring and training; usable alone, without a supernet and without configuration."""

from predictors.additive_model import AdditiveModel, additive
from predictors.assessment import Calibration, Quality, calibration, quality, regret
from predictors.base import Differentiable, Predictor, Trainable, Uncertain
from predictors.combined import Combined, weighted_sum
from predictors.ensemble import Ensemble
from predictors.function import Function
from predictors.gaussian_process import GaussianProcess
from predictors.gradient_boosting import GradientBoosting
from predictors.kriging import Kriging
from predictors.largest_layer import largest_layer, scaled_largest
from predictors.layer_model import LayerModel, next_layers
from predictors.lookup import CorrectedLookup, Coverage, coverage, plain_sum, sums_left_out
from predictors.mlp import Mlp, once_for_all_accuracy, pretrained
from predictors.peak_memory import peak_memory
from predictors.position_table import PositionTable, activations, macs, params, traffic
from predictors.ratio import Ratio, intensity
from predictors.regression import FeatureModel, Regression, best_by_cross_validation
from predictors.ridge import Ridge
from predictors.saving import load, save
from predictors.transfer import DeviceTransfer, TransferredLatency
from predictors.zero_cost import PROXIES, ProxyFeatures, ZeroCost

__all__ = [
    "AdditiveModel",
    "Calibration",
    "Combined",
    "CorrectedLookup",
    "Coverage",
    "DeviceTransfer",
    "Differentiable",
    "Ensemble",
    "FeatureModel",
    "Function",
    "GaussianProcess",
    "GradientBoosting",
    "Kriging",
    "LayerModel",
    "Mlp",
    "PROXIES",
    "PositionTable",
    "Predictor",
    "ProxyFeatures",
    "Quality",
    "Ratio",
    "Regression",
    "Ridge",
    "Trainable",
    "TransferredLatency",
    "Uncertain",
    "ZeroCost",
    "activations",
    "additive",
    "best_by_cross_validation",
    "calibration",
    "coverage",
    "intensity",
    "largest_layer",
    "load",
    "macs",
    "next_layers",
    "once_for_all_accuracy",
    "params",
    "peak_memory",
    "plain_sum",
    "pretrained",
    "quality",
    "regret",
    "save",
    "scaled_largest",
    "sums_left_out",
    "traffic",
    "weighted_sum",
]
