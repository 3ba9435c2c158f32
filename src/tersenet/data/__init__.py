"""Data sets, and the endless stream of training batches drawn from them."""

from tersenet.data.images import Images, Stream, statistics

__all__ = ["Images", "Stream", "statistics"]
