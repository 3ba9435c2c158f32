"""Lookups, sorts and windows against the operator itself."""

import pytest
import torch
from torch.nn import functional

FIRST = torch.tensor([1, 0])
TABLE = torch.tensor([[0, 1, 1], [1, 0, 0]])

CASES = {
    "gather": ("nlc", lambda x: x.gather(1, torch.zeros(x.shape, dtype=torch.long)), "nc"),
    "gather a part": ("5lc", lambda x: x.gather(1, TABLE.view(2, 3, 1)), ""),
    "gather rows": (
        "nlc",
        lambda x: x.gather(1, FIRST.view(1, 2, 1).expand(len(x), -1, x.shape[-1])),
        "nc",
    ),
    "index select": ("nlc", lambda x: x.index_select(1, FIRST), "nc"),
    "index": ("nlc", lambda x: x[:, FIRST], "nc"),
    "index by a table": ("nlc", lambda x: x[:, TABLE], "nc"),
    "index of two": ("nlmc", lambda x: x[:, FIRST, FIRST], "nc"),
    "index of two apart": ("nlcm", lambda x: x[:, FIRST, :, FIRST], "nc"),
    "topk": ("nlc", lambda x: x.topk(2, dim=1).values, "nc"),
    "sort": ("nlc", lambda x: x.sort(1).values, "nc"),
    "max": ("nlc", lambda x: x.max(1).values, "nc"),
    "min kept": ("nlc", lambda x: x.min(1, keepdim=True).values, "nc"),
    "argmax": ("nlc", lambda x: x.argmax(1), "nc"),
    "cumsum": ("nlc", lambda x: x.cumsum(1), "nc"),
    "diff": ("nlc", lambda x: x.diff(dim=1), "nc"),
    "windows": ("nlc", lambda x: x.unfold(1, 2, 1), "nc"),
    "columns": ("nc44", lambda x: functional.unfold(x, 2), "nc"),
    "image": ("n86", lambda x: functional.fold(x, (3, 4), 2), "n8"),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CASES)
def test_other_dimensions_pass(probe, name: str, seed: int):
    shapes, call, live = CASES[name]
    probe(name, seed, shapes, call, live, whole=False)
