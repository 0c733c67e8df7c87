"""The former name of `OptunaSearcher`, whose default sampler is TPE."""

from nas.searchers.optuna import OptunaSearcher as TPE

__all__ = ["TPE"]
