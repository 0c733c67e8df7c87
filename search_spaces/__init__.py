"""The space of networks: search spaces, architectures and the layers that they lower to."""

from search_spaces.architecture import Architecture, Choice, Condition, Genes, Position, Value
from search_spaces.base.errors import NasError
from search_spaces.bottlenecks import BasicBlock, DepthwiseBottleneck, Tucker
from search_spaces.concatenation import OSA, FasterNetBlock, HarDBlock
from search_spaces.darts import Darts
from search_spaces.fbnet import FBNet
from search_spaces.heads import ExtraFeatures, GlobalGate, PixelClassifier, SeparablePredictor, UpsampledSum
from search_spaces.layers import (
    UIB,
    BlockPlace,
    Bottleneck,
    Classifier,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
    SeparableConv,
)
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.mobilenet_v4 import MobileNetV4
from search_spaces.nasbench201 import NasBench201
from search_spaces.reparameterised import BatchNormClassifier, MobileOneBlock, RepConv, RepViTBlock
from search_spaces.resnet50 import ResNet50
from search_spaces.space import SearchSpace
from search_spaces.staged import Staged
from search_spaces.super_resolution import BiasedConv, SubPixels, SuperResolutionSpace

__all__ = [
    "Architecture",
    "BatchNormClassifier",
    "BiasedConv",
    "BasicBlock",
    "BlockPlace",
    "Bottleneck",
    "Choice",
    "Classifier",
    "Condition",
    "Conv",
    "DepthwiseBottleneck",
    "Darts",
    "ExtraFeatures",
    "FBNet",
    "FBNetBlock",
    "FasterNetBlock",
    "FusedMBConv",
    "Genes",
    "GlobalGate",
    "HarDBlock",
    "Layer",
    "LinearClassifier",
    "MBConv",
    "MaxPool",
    "MobileNetV3",
    "MobileNetV4",
    "MobileOneBlock",
    "NasBench201",
    "NasError",
    "NormClassifier",
    "OSA",
    "PixelClassifier",
    "Position",
    "RepConv",
    "RepViTBlock",
    "ResNet50",
    "ResidualConv",
    "SearchSpace",
    "SeparableConv",
    "SeparablePredictor",
    "Staged",
    "SubPixels",
    "SuperResolutionSpace",
    "Tucker",
    "UIB",
    "UpsampledSum",
    "Value",
]
