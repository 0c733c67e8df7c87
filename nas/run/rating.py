"""Ratings of the networks of a run by the losses of their blocks, of a supernet that was trained block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.run.labelling import training_settings
from nas.run.objectives import rating_file
from nas.run.run_folder import Run
from predictors.saving import save
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.threads import torch_threads
from search_spaces.metric import BLOCK_LOSS

if TYPE_CHECKING:
    from nas.supernet.losses import Blockwise


def rate_blocks(run: Run) -> None:
    """Try all ways to fill each block of the supernet; see `nas.supernet.block_rating`.

    Raises:
        InvalidValueError: the supernet was not trained block by block, or a block can be filled in too many ways.
        DamagedFileError: the weights of the teacher are gone.
    """
    from nas.supernet import Supernet
    from nas.supernet.block_rating import beginning, block_rating
    from nas.supernet.training import CHECKPOINT

    loss, settings, folder = blockwise_of(run), training_settings(run), run.folder / "train"
    with torch_threads(settings.threads):
        teacher = None if loss.independent else beginning(run.space, folder / CHECKPOINT)
        rating = block_rating(Supernet.load(run.space, folder / "supernet.pt"), run.data, loss, teacher=teacher)
    save(rating, run.space, rating_file(run.folder))


def blockwise_of(run: Run) -> Blockwise:
    """The loss of blocks that a run's supernet is trained with in the end.

    Raises:
        InvalidValueError: it is trained with another one.
    """
    from nas.supernet.losses import Blockwise
    from nas.supernet.training_settings import spans_of

    *_, last, _ = spans_of(training_settings(run))[-1]
    if not isinstance(last.loss, Blockwise):
        raise InvalidValueError(
            f"{BLOCK_LOSS.name} rates networks of a supernet whose last phase learns block by block, but here it "
            f"learns by {type(last.loss).__name__}. Choose `training=blockwise`, or another objective."
        )
    return last.loss
