import pytest
import torch

from nas.supernet.augmentation import Mixup, drawn


def test_shares_follow_the_beta_distribution() -> None:
    mixing = drawn([Mixup(alpha=0.4)], 20_000, 8, torch.Generator().manual_seed(0)).mixing
    assert mixing is not None
    assert float(mixing.share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(mixing.share.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)
    assert torch.equal(mixing.partner.sort().values, torch.arange(20_000))
    weights = mixing.of(torch.arange(2), torch.tensor([1, 0])).weights(3, 4)
    torch.testing.assert_close(weights, mixing.share[:2, None, None, None].expand(2, 1, 3, 4))
