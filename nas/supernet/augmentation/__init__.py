"""Random changes of training images. One idea per file."""

from nas.supernet.augmentation.affine import Affine
from nas.supernet.augmentation.base import Augmentation, Changes, check_augment, drawn
from nas.supernet.augmentation.crop import Crop
from nas.supernet.augmentation.cutmix import CutMix
from nas.supernet.augmentation.flip import Flip
from nas.supernet.augmentation.mixup import Mixup
from nas.supernet.augmentation.rand_augment import RandAugment

__all__ = [
    "Affine",
    "Augmentation",
    "Changes",
    "Crop",
    "CutMix",
    "Flip",
    "Mixup",
    "RandAugment",
    "check_augment",
    "drawn",
]
