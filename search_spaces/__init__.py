"""What can be built: search spaces, architectures and the layers that they lower to."""

from search_spaces.architecture import Architecture, Choice, Condition, Genes, Position, Value
from search_spaces.errors import NasError
from search_spaces.layers import Classifier, Conv, Layer, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.space import SearchSpace

__all__ = [
    "Architecture",
    "Choice",
    "Classifier",
    "Condition",
    "Conv",
    "Genes",
    "Layer",
    "MBConv",
    "MobileNetV3",
    "NasError",
    "Position",
    "SearchSpace",
    "Value",
]
