"""Distillation: a smaller network learns from the original's answers."""

from tersenet.distill.response import Response, ResponsePlan
from tersenet.train import response_loss

__all__ = ["Response", "ResponsePlan", "response_loss"]
