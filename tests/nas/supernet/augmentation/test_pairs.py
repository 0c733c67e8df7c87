import pytest
import torch

from nas.supernet.augmentation import CutMix, Mixup
from nas.supernet.augmentation.pairs import drawn_pairs
from search_spaces.base.errors import InvalidValueError


def test_each_image_has_a_partner_and_some_are_chosen() -> None:
    partner, share, chosen = drawn_pairs(20_000, 2.0, 0.25, torch.Generator().manual_seed(0))
    assert sorted(partner.tolist()) == list(range(20_000))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / 20, rel=0.05)  # of Beta(a, a): 1 / (4 (2 a + 1))
    assert float(chosen.float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": float("inf")}, {"chance": 0.0}, {"chance": 1.5}])
def test_pairs_that_cannot_be_drawn_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=f"`{next(iter(wrong))}` must be"):
        kind(**wrong)
