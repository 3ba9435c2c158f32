"""A saved network is rebuilt on inputs of the kind that it was saved with."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.prune import L1, Channels
from tersenet.run import History, load, save


class Tagger(nn.Module):
    """Tokens in, a class for each sequence out: floats are no input of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.embed(tokens)).relu().mean(1))


def test_tokens_stay_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, tokens = Tagger().eval(), torch.randint(0, 7, (2, 5))
    subject = Subject(model=model, example=(tokens,))
    method = Channels(criterion=L1(), multiple_of=None)
    plan = method.plan(subject, Workbench())
    smaller, edits = method.apply(model, plan, subject, Workbench())
    history = History({"class": "Tagger"}, ((2, 5),), dtypes=("int64",)).then(method, edits)
    save(tmp_path, smaller, history, {})
    replayed = Channels.replay

    def run_before(self: Channels, model: nn.Module, edits: object, example: tuple) -> nn.Module:
        model(*example)  # as methods do whose replay traces the network
        return replayed(self, model, edits, example)

    monkeypatch.setattr(Channels, "replay", run_before)
    assert torch.equal(load(tmp_path, model=Tagger())(tokens), smaller(tokens))
