"""Training, evaluation, and the task that ties a network to its data."""

from tersenet.train.evaluate import TopOne
from tersenet.train.layout import SafeConvolutions
from tersenet.train.loop import TrainingOptions, fit
from tersenet.train.loss import label_loss, response_loss, summed_cross_entropy
from tersenet.train.masks import Masks
from tersenet.train.task import Classification
from tersenet.train.tasks import TASKS

__all__ = [
    "TASKS",
    "Classification",
    "Masks",
    "SafeConvolutions",
    "TopOne",
    "TrainingOptions",
    "fit",
    "label_loss",
    "response_loss",
    "summed_cross_entropy",
]
