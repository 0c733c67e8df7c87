"""Short names of hwnas's own predictors in files; those of others are named by their import path."""

from __future__ import annotations

SAVED = {
    "CorrectedLookup": "predictors.lookup.CorrectedLookup",
    "GaussianProcess": "predictors.gaussian_process.GaussianProcess",
    "PositionTable": "predictors.position_table.PositionTable",
    "Regression": "predictors.regression.Regression",
    "TransferredLatency": "predictors.transfer.TransferredLatency",
}
"""Predictors that `predictors.save` writes."""

FITTED = {
    "FittedEnsemble": "predictors.ensemble.FittedEnsemble",
    "FittedKriging": "predictors.kriging.FittedKriging",
    "FittedMlp": "predictors.mlp.FittedMlp",
    "FittedRidge": "predictors.ridge.FittedRidge",
    "FittedTrees": "predictors.gradient_boosting.FittedTrees",
}
"""Fitted models that a `predictors.Regression` holds."""
