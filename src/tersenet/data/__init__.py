"""Data sets, and the endless stream of training batches drawn from them."""

from tersenet.data.images import Images, TrainingStream, statistics

__all__ = ["Images", "TrainingStream", "statistics"]
