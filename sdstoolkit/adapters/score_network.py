"""The small networks that `sds train digits` leaves behind: a score of images, without a prompt.

    out = F(x_t / sqrt(alpha^2 d^2 + sigma^2), t) sqrt(a^2 d^2 + b^2)

The schedule and what `out` is are read from the folder's own config
(:mod:`sdstoolkit.toy.score_network`), and x_0 = 2 image - 1.
"""

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.codec import Codec
from sdstoolkit.prior import Prior
from sdstoolkit.toy.score_network import NETWORKS, open_score

PIPELINES = tuple(NETWORKS)
TAKES = "nothing"
EXAMPLES: tuple[str, ...] = ()


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a folder that `save_score` wrote.

    Raises:
        ValueError: the folder is incomplete, or its network is of points and not of images.
    """
    score = open_score(checkpoint.path, dtype=checkpoint.dtype).to(checkpoint.device)
    if len(score.shape) != 3:
        raise ValueError(
            f"{checkpoint.name!r} is a score of points with {score.shape[0]} coordinates, expected"
            " one of images; open it with sdstoolkit.toy.open_score."
        )
    return Prior(score, Codec(channels=score.shape[0]))
