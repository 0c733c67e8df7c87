"""One network that holds the weights of every network of a space: training it, and reading accuracies off it."""

from nas.core.history import Epoch
from nas.supernet.evaluation import SupernetAccuracy, score_of
from nas.supernet.recalibration import recalibrate
from nas.supernet.supernet import Supernet, check_task
from nas.supernet.training import Trained, check_device, train
from nas.supernet.training_settings import Phase, TrainingSettings

__all__ = [
    "Epoch",
    "Phase",
    "Supernet",
    "SupernetAccuracy",
    "Trained",
    "TrainingSettings",
    "check_device",
    "check_task",
    "recalibrate",
    "score_of",
    "train",
]
