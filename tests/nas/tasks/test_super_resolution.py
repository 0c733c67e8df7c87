"""Super-resolution: PSNR by hand, on luminance and on all channels."""

import numpy as np
import pytest
import torch

from nas.tasks import SuperResolution, Task
from search_spaces.base.errors import InvalidValueError, MismatchError

GREY, COLOUR = SuperResolution((1, 8, 8), 2), SuperResolution((3, 8, 8), 2)


def psnr(task: SuperResolution, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    score = task.score()
    score.add(outputs, targets)
    return score.value()


def test_the_psnr_is_the_mean_over_images() -> None:
    targets = torch.full((2, 1, 8, 8), 0.5)
    outputs = targets + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(GREY, outputs, targets) == pytest.approx((20 + 40) / 2, rel=1e-4)
    score = GREY.score()
    score.add(outputs, targets)
    assert score.error() == pytest.approx(np.std([20, 40], ddof=1) / np.sqrt(2), rel=1e-4)
    assert psnr(GREY, targets, targets) == pytest.approx(100)
    assert (GREY.metric.name, GREY.metric.unit, GREY.metric.direction) == ("psnr_db", "dB", "max")
    assert isinstance(GREY, Task)


def test_the_border_does_not_count_and_outputs_are_cut() -> None:
    targets = torch.ones(1, 1, 8, 8)
    outputs = targets.clone()
    outputs[..., :2, :] = 0  # of two pixels, the scale
    outputs[..., 4, 4] = 7.0  # is cut to 1
    assert psnr(GREY, outputs, targets) == pytest.approx(100)


def test_luminance_weighs_the_channels() -> None:
    targets = torch.zeros(1, 3, 8, 8)
    outputs = targets.clone()
    outputs[:, 1] = 0.1
    assert psnr(COLOUR, outputs, targets) == pytest.approx(-20 * np.log10(0.1 * 128.553 / 255), rel=1e-4)
    of_all = SuperResolution((3, 8, 8), 2, "rgb")
    assert psnr(of_all, outputs, targets) == pytest.approx(-10 * np.log10(0.01 / 3), rel=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"shape \(1, 12, 12\), but data 'mine' has targets of shape \(1, 8, 8\)"):
        GREY.check("Networks", {"upscaled": (1, 12, 12)}, "mine")
    with pytest.raises(InvalidValueError, match="luminance or rgb"):
        SuperResolution((1, 8, 8), 2, "hsv")  # type: ignore[arg-type]
    assert GREY.output({"upscaled": (1, 1, 8, 8)})["output"]["shape"] == [1, 1, 8, 8]
