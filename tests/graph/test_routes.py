"""Networks whose forward() holds sizes: their own class where that is exact, else its program."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import EditKind
from tersenet.errors import StructureError
from tersenet.export import to_onnx
from tersenet.graph import provable, prove, remove, replay, trace
from tersenet.graph.edits import sized
from tersenet.prune import L1, Channels
from tersenet.run import History, load, save

TOKENS = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(5))


class Attention(nn.Module):
    """Four heads of four; `write` is how forward() reads the projection as heads."""

    def __init__(self, write) -> None:
        super().__init__()
        self.num_heads, self.embed_dim = 4, 16
        self.before, self.mix = nn.Linear(16, 16), nn.Linear(16, 48)
        self.norm = nn.BatchNorm1d(16)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 5)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        x = x + functional.dropout(self.out(self.write(self, self.mix(x))), 0.3, self.training)
        return self.head(self.norm(x.mean(1)))


def reshaped(net, x):
    """As in timm: heads and channels are numbers that __init__ kept."""
    count, length, _ = x.shape
    q, k, v = x.reshape(count, length, 3, net.num_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
    x = functional.scaled_dot_product_attention(q, k, v)
    return x.transpose(1, 2).reshape(count, length, net.embed_dim)


def literal(net, x):
    """As in GPT-2: a split at a width, and heads in the code."""
    q, k, v = (one.view(*x.shape[:2], 4, 4).transpose(1, 2) for one in x.split(16, -1))
    x = (q @ k.transpose(-2, -1) / math.sqrt(4)).softmax(-1) @ v
    return x.transpose(1, 2).reshape(*x.shape[:1], -1, 16)


def absorbing(net, x):
    """As in OPT: with fewer heads the view makes more positions, and runs."""
    q, k, v = (one.reshape(x.shape[0], -1, 4, 4).transpose(1, 2) for one in x.chunk(3, -1))
    x = functional.scaled_dot_product_attention(q, k, v)
    return x.transpose(1, 2).reshape(x.shape[0], -1, net.out.in_features)


def flat(net, x):
    """Heads and samples read as one dimension, as for a batched product."""
    count = x.shape[0]
    size = count * 4
    q, k, v = (
        one.view(count, -1, 4, 4).transpose(1, 2).reshape(size, -1, 4) for one in x.chunk(3, -1)
    )
    x = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return x.view(count, 4, -1, 4).transpose(1, 2).flatten(2)


def rotated(net, x):
    """Rotary positions: pairs of a head's dimensions turn together."""
    q, k, v = (one.unflatten(-1, (net.num_heads, 4)).transpose(1, 2) for one in x.chunk(3, -1))
    angle = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    turned = [
        one * angle.cos() + torch.cat([-one[..., 2:], one[..., :2]], -1) * angle.sin()
        for one in (q, k)
    ]
    return functional.scaled_dot_product_attention(*turned, v).transpose(1, 2).flatten(2)


WAYS = (reshaped, literal, absorbing, flat, rotated)


def _smaller(write, share: int = 2):
    torch.manual_seed(0)
    model = Attention(write).eval()
    model.norm.running_var.uniform_(0.5, 2)
    graph = trace(model, (TOKENS,))
    keep = {one.name: range(1, one.size, share) for one in graph.groups}
    smaller, edits = remove(copy.deepcopy(model), graph, keep)
    return model, graph, smaller, edits


@pytest.mark.parametrize("write", WAYS)
def test_heads_go_whatever_forward_writes(write):
    model, graph, smaller, edits = _smaller(write)
    assert {one.name: one.size for one in graph.groups} == {"before + 1 more": 16, "mix": 4}
    proof = prove(model, smaller, edits, (TOKENS,))
    assert proof.holds
    assert proof.effect > 1e-3
    assert smaller.get_parameter("mix.weight").shape == (24, 8)
    # the own class where numbers it keeps explain it, as `num_heads`
    assert (type(smaller) is Attention) == (write in (reshaped, rotated))
    if write is reshaped:
        assert (smaller.num_heads, smaller.embed_dim) == (2, 8)
    # other batches and lengths, against the original with the same entries zeroed
    masked = copy.deepcopy(model)
    tensors = {**dict(masked.named_parameters()), **dict(masked.named_buffers())}
    for edit in edits:
        if edit.kind is EditKind.SLICE:
            gone = sorted(
                set(range(tensors[edit.site].shape[edit.data["dim"]])) - {*edit.data["keep"]}
            )
            tensors[edit.site].data.index_fill_(edit.data["dim"], torch.tensor(gone), 0)
    for shape in [(1, 6, 16), (5, 9, 16)]:
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(smaller(x), masked(x))


@pytest.mark.parametrize("write", [reshaped, absorbing])
def test_what_comes_out_is_a_network(write, tmp_path):
    _, _, smaller, edits = _smaller(write)
    # trains: dropout and batch norm follow the mode, all parameters get gradients
    trained = copy.deepcopy(smaller).train()
    before = trained.get_buffer("norm.running_mean").clone()
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    assert not torch.equal(trained(TOKENS), trained(TOKENS))
    trained(TOKENS).square().sum().backward()
    assert all(one.grad is not None for one in trained.parameters())
    optimizer.step()
    assert not torch.equal(trained.get_buffer("norm.running_mean"), before)
    trained.eval()
    assert torch.equal(trained(TOKENS), trained(TOKENS))
    # saves and loads: a fresh class, the edits, the tensors
    history = History({"class": "Attention"}, ((3, 6, 16),)).then(Channels(criterion=L1()), edits)
    save(tmp_path, trained, history, {})
    loaded = load(tmp_path, model=Attention(write))
    assert torch.equal(loaded(TOKENS), trained(TOKENS))
    # becomes a file
    to_onnx(loaded, (TOKENS,), tmp_path / "model.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"input": TOKENS[:2].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), loaded(TOKENS[:2]).detach())
    # and shrinks again
    graph = trace(loaded, (TOKENS,))
    again, more = remove(copy.deepcopy(loaded), graph, {one.name: [0] for one in graph.groups})
    assert prove(loaded, again, more, (TOKENS,)).holds
    assert torch.equal(replay(copy.deepcopy(loaded), more)(TOKENS).isnan(), again(TOKENS).isnan())


def test_a_norm_over_fewer_channels_says_so():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, 10)
            self.root, self.c = nn.Parameter(torch.rand(10)), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.norm(self.a(x)))
            return self.c(x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.root)

    model = Normed()
    graph = trace(model, (TOKENS,))
    assert {one.name: one.size for one in graph.groups} == {"a": 12, "b": 10}
    assert "layer_norm" in graph.group("a").changes[0]
    assert "mean" in graph.group("b").changes[0]
    smaller, edits = remove(copy.deepcopy(model), graph, {"a": range(5), "b": range(3, 9)})
    assert smaller.norm.normalized_shape == (5,)
    proof = prove(model, smaller, edits, (TOKENS,))
    assert proof.holds
    assert "its meaning changes: aten.layer_norm" in proof.claim
    # by hand: what remains, computed on slices
    x = model.a(TOKENS)[..., :5]
    weight, bias = model.norm.weight[:5], model.norm.bias[:5]
    x = functional.layer_norm(x, (5,), weight, bias) @ model.b.weight[3:9, :5].T + model.b.bias[3:9]
    x = functional.rms_norm(x, (6,), model.root[3:9], 1e-5)
    expected = x @ model.c.weight[:, 3:9].T + model.c.bias
    torch.testing.assert_close(smaller(TOKENS), expected)


def test_a_program_of_one_batch_size_is_refused():
    def counting(net, x):
        count = len(x)
        q, k, v = (one.reshape(count, 6, 4, 4).transpose(1, 2) for one in x.chunk(3, -1))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    model = Attention(counting).eval()
    graph = trace(model, (TOKENS,))
    keep = {one.name: (0, 1) for one in graph.groups}
    with pytest.raises(StructureError, match=r"takes one batch size alone.*x\.shape\[0\]"):
        remove(copy.deepcopy(model), graph, keep)
    left, (skip,) = provable(model, graph, keep)
    assert left == {"before + 1 more": (0, 1), "mix": (0, 1, 2, 3)}
    assert skip.site == "mix"
    assert "one batch size alone" in skip.reason


def test_outputs_that_do_not_matter_may_shrink():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(16, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.trunk(x)
            return {"hidden": x, "logits": self.head(x.relu())}

    model = Two()
    assert trace(model, (TOKENS,)).groups == ()
    graph = trace(model, (TOKENS,), outputs=["logits"])
    smaller, edits = remove(copy.deepcopy(model), graph, {"trunk": range(4)})
    assert prove(model, smaller, edits, (TOKENS,), outputs=["logits"]).holds
    assert smaller(TOKENS)["hidden"].shape == (3, 6, 4)
    with pytest.raises(StructureError, match=r"no output 'logit'.*'hidden', 'logits'"):
        trace(model, (TOKENS,), outputs=["logit"])


def test_a_group_that_cannot_be_proved_is_left_out():
    class Wrong(nn.Module):
        """A weight that is multiplied by itself: what is left of it is another one."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 8)
            self.mix = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x).relu()).relu()
            return functional.linear(x, (self.mix @ self.mix.t()) @ self.mix)

    model = Wrong()
    graph = trace(model, (TOKENS,))
    keep = {one.name: tuple(range(one.size // 2)) for one in graph.groups}
    assert {name.split(" ")[0] for name in keep} == {"a", "b"}
    left, skips = provable(model, graph, keep)
    assert left["a"] == (0, 1, 2, 3)
    smaller, edits = remove(
        copy.deepcopy(model), graph, {name: left[name] for name in keep if left[name] == keep[name]}
    )
    assert prove(model, smaller, edits, (TOKENS,)).holds
    assert (
        [skip.site for skip in skips] == [name for name in keep if left[name] != keep[name]] != []
    )
    for skip in skips:
        assert "cannot be proved" in skip.reason
        with pytest.raises(StructureError, match="cannot be proved"):
            remove(copy.deepcopy(model), graph, {skip.site: keep[skip.site]})


def test_a_program_has_its_layers_as_modules():
    """What works on layers, such as a repair, works on a program too; nothing else changes."""
    model, _, smaller, edits = _smaller(literal)
    assert type(smaller) is not Attention
    kinds = {name: type(one) for name, one in smaller.named_modules() if one._parameters}
    linear = dict.fromkeys(("before", "mix", "out", "head"), nn.Linear)
    assert kinds == linear | {"norm": nn.BatchNorm1d}
    assert (smaller.mix.in_features, smaller.mix.out_features) == (8, 24)
    assert list(smaller.state_dict()) == list(model.state_dict())
    again = replay(copy.deepcopy(model), edits)
    assert torch.equal(again(TOKENS), smaller(TOKENS))
    # the batch norm's statistics follow train(), as the original's do
    steady = smaller.norm.running_mean.clone()
    smaller(TOKENS)
    assert torch.equal(smaller.norm.running_mean, steady)
    smaller.train()(TOKENS)
    assert not torch.equal(smaller.norm.running_mean, steady)


class Twice(nn.Module):
    """A layer called twice, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(16, 16), nn.Linear(16, 16)
        self.table, self.out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.first(x).relu()).relu())
        return self.out(self.table(x).relu().view(-1, 6, 16))


def test_layers_that_more_than_one_call_reads_stay_functions():
    model = Twice().eval()
    graph = trace(model, (TOKENS,))
    program = sized(copy.deepcopy(model), graph.walk, ())
    assert torch.equal(program(TOKENS), model(TOKENS))
    assert type(program.first) is nn.Linear
    assert type(program.again) is nn.Module
    assert list(program.state_dict()) == list(model.state_dict())
