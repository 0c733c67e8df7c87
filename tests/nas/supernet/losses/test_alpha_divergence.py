import math

import pytest
import torch
from torch.nn import functional

from nas.supernet.losses import AlphaDivergence, Lesson
from nas.supernet.losses.alpha_divergence import adaptive_divergence, alpha_divergence
from nas.tasks import Classification, MultiLabel
from search_spaces.base.errors import InvalidValueError


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student, with a gradient, and of a teacher."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(6, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of logits, (B, classes) -> (B,)."""
    return functional.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True).sum(1)


def gradient(values: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(values.sum(), student, retain_graph=True)[0]


@pytest.mark.parametrize("alpha", [1.0, 0.0, 1 - 1e-2, 1e-2])
def test_the_limits_are_the_divergences_of_kullback_and_leibler(alpha: float) -> None:
    student, teacher = logits()
    expected = kl(teacher, student) if alpha > 0.5 else kl(student, teacher)
    found = alpha_divergence(student, teacher, alpha)
    tolerance = 1e-10 if alpha in (0, 1) else 0.1  # near the limit, near the divergence
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    exact, ours = gradient(expected, student), gradient(found, student)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10 if alpha in (0, 1) else 0.1)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_without_clipping_value_and_gradient_are_those_of_the_definition(alpha: float) -> None:
    student, teacher = logits()
    p, q = teacher.softmax(1), student.softmax(1)
    defined = (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))
    found = alpha_divergence(student, teacher, alpha)
    torch.testing.assert_close(found, defined)
    torch.testing.assert_close(gradient(found, student), gradient(defined, student))
    assert bool((found > 0).all())
    same = alpha_divergence(student, student.detach(), alpha)
    torch.testing.assert_close(same, torch.zeros_like(same))


@pytest.mark.parametrize("alpha", [-1.0, 0.5])
def test_the_importance_is_clipped_in_the_gradient(alpha: float) -> None:
    student, teacher = logits()
    with torch.no_grad():
        student *= 5  # so that ratios are large
    p, q = teacher.softmax(1), student.detach().softmax(1)
    importance = (p / q) ** alpha
    assert float(importance.max()) > 100
    rho = importance.clamp(max=5) / alpha
    expected = q * ((q * rho).sum(1, keepdim=True) - rho)  # of - sum q rho log q, with q and rho held fixed
    torch.testing.assert_close(gradient(alpha_divergence(student, teacher, alpha, clip=5), student), expected)
    assert float(expected.abs().sum(1).max()) <= 2 * 5 / abs(alpha)  # bounded, whatever the logits


def test_the_larger_divergence_of_each_sample_counts() -> None:
    student, teacher = logits()
    low, high = (alpha_divergence(student, teacher, alpha, clip=5) for alpha in (-1.0, 1.0))
    found = adaptive_divergence(student, teacher, -1, 1, 5)
    assert torch.equal(found, torch.maximum(low, high))
    wins = low > high
    assert 0 < int(wins.sum()) < len(wins)
    expected = torch.where(wins[:, None], gradient(low, student), gradient(high, student))
    torch.testing.assert_close(gradient(found, student), expected)


def test_the_first_network_learns_from_labels_the_others_from_it() -> None:
    student, teacher = (one.detach() for one in logits())
    task, labels = Classification(10), torch.arange(6)
    first = AlphaDivergence()(student, Lesson(task, labels, 0.1))
    assert float(first) == pytest.approx(float(functional.cross_entropy(student, labels, label_smoothing=0.1)))
    other = AlphaDivergence()(student, Lesson(task, labels, 0.1, first=teacher))
    assert float(other) == pytest.approx(float(adaptive_divergence(student, teacher, -1, 1, 5).mean()))
    pixels = [x.reshape(2, 3, 10).movedim(2, 1) for x in (student, teacher)]  # classes of pixels, along axis 1
    dense = AlphaDivergence()(pixels[0], Lesson(task, labels, 0.1, first=pixels[1]))
    assert float(dense) == pytest.approx(float(other))


def test_what_is_no_class_score_is_refused() -> None:
    lesson = Lesson(Classification(10), torch.arange(6), 0, first=torch.zeros(6, 1))
    with pytest.raises(InvalidValueError, match="probabilities of classes"):
        AlphaDivergence()(torch.zeros(6, 1), lesson)
    several = Lesson(MultiLabel(4), torch.zeros(6, 4), 0, first=torch.zeros(6, 4))  # whose probabilities do not add up
    with pytest.raises(InvalidValueError, match="which networks for MultiLabel do not give"):
        AlphaDivergence()(torch.zeros(6, 4), several)
    for wrong in ({"low": 2.0}, {"clip": 0.5}, {"high": math.inf}):
        with pytest.raises(InvalidValueError):
            AlphaDivergence(**wrong)
