"""Each rule against the operator itself: NaN in coded slices, and removal compared with zeros.

The smaller call is the one in the program, its sizes derived anew.
"""

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tersenet.graph.labels import Labels, Value
from tersenet.graph.routes.constants import fit
from tersenet.graph.visit import Visit, rule_for
from tersenet.graph.walk import Remainder


@dataclass(frozen=True)
class Case:
    """An operator on tensors of which some dimensions can shrink."""

    shapes: str
    """Per input its dimensions: letters are random sizes, digits themselves, = a parameter."""
    call: Callable[..., object]
    live: str
    """The letters of which units may go, worked out by hand."""
    whole: bool = True
    """Whether a unit's slice of the output holds nothing but what that unit made."""
    declared: str = ""
    """The letters whose removal the proof looks at over kept indices alone."""
    still: str = ""
    """The letters that something else fixes."""


def _groups(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, groups=x.shape[1])


CASES = {
    "add": Case("nchw nchw", torch.add, "nchw"),
    "add of one": Case("nchw 1c1w", torch.mul, "nchw"),
    "where": Case("nc nc nc", lambda a, b, c: torch.where(a > 0, b, c), "nc", whole=False),
    "gelu": Case("nlc", F.gelu, "nlc"),
    "tanh": Case("nc", torch.tanh, "nc"),
    "conv1d": Case("nc7 =fc3 =f", F.conv1d, "ncf"),
    "conv2d": Case("nc66 =fc33 =f", F.conv2d, "ncf"),
    "grouped conv": Case("n655 =8333", lambda x, w: F.conv2d(x, w, groups=2), "n683"),
    "depthwise": Case("nc55 =c133", _groups, "nc"),
    "transposed": Case("nc55 =cf22 =f", F.conv_transpose2d, "ncf"),
    "transposed, grouped": Case(
        "n655 =6223", lambda x, w: F.conv_transpose2d(x, w, groups=3), "n62", still="5"
    ),
    "transposed, depthwise": Case(
        "nc55 =c222", lambda x, w: F.conv_transpose2d(x, w, groups=x.shape[1]), "nc", still="5"
    ),
    "linear": Case("nlc =fc =f", F.linear, "nlcf"),
    "addmm": Case("=f nc =cf", torch.addmm, "ncf"),
    "mm": Case("nc =cf", torch.mm, "ncf"),
    "bmm": Case("ent etm", torch.bmm, "enm"),
    "baddbmm": Case("enm ent =etm", torch.baddbmm, "entm"),
    "matmul of activations": Case("bhnt bhtm", torch.matmul, "bhnm"),
    "matmul with broadcast": Case("bhnt 1htm", torch.matmul, "bhnm"),
    "attention": Case("bhte bhse bhsv", F.scaled_dot_product_attention, "bhv"),
    "attention of grouped queries": Case(
        "b6te b3se b3sv",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "b63v",
    ),
    "weight norm": Case(
        "=fc =f1",
        lambda v, g: torch.ops.aten._weight_norm(v, g, 0),
        "fc",
        whole=False,
        declared="f",
    ),
    "attention with mask": Case("bhte bhse bhsv bhts", F.scaled_dot_product_attention, "bhv"),
    "layer norm": Case(
        "nlc =c =c", lambda x, w, b: F.layer_norm(x, w.shape, w, b), "nlc", declared="c"
    ),
    "rms norm": Case("nlc =c", lambda x, w: F.rms_norm(x, w.shape, w), "nlc", declared="c"),
    "group norm": Case("n655 =6 =6", lambda x, w, b: F.group_norm(x, 3, w, b), "n6", declared="6"),
    "instance norm": Case(
        "nc55 =c =c", lambda x, w, b: F.instance_norm(x, None, None, w, b), "nc", still="5"
    ),
    "batch norm": Case(
        "nc55 =c =c =c =c", lambda x, m, v, w, b: F.batch_norm(x, m, v.abs(), w, b), "nc55"
    ),
    "batch norm of the batch": Case(
        "nc5", lambda x: F.batch_norm(x, None, None, training=True), "c"
    ),
    "linear of activations": Case("nc fc", F.linear, "nf"),
    "prelu": Case("nc4 =c", F.prelu, "nc4"),
    "softmax": Case("nlc", lambda x: x.softmax(1), "nc"),
    "mean": Case("nchw", lambda x: x.mean((2, 3)), "nchw", declared="hw"),
    "variance": Case("nlc", lambda x: x.var(2), "nlc", declared="c"),
    "length": Case("nc", lambda x: torch.linalg.vector_norm(x, dim=1), "nc", declared="c"),
    "sum": Case("nchw", lambda x: x.sum(1), "nhw"),
    "amax kept": Case("nlc", lambda x: x.amax(1, keepdim=True), "nc"),
    "max pool": Case("nc66", lambda x: F.max_pool2d(x, 2), "nc", whole=False),
    "adaptive pool": Case("nc66", lambda x: F.adaptive_avg_pool2d(x, 2), "nc"),
    "embedding": Case("=rc", lambda t: F.embedding(torch.tensor([[0, 1], [1, 0]]), t), "c"),
    "cat": Case("nc55 nd55", lambda a, b: torch.cat([a, b], 1), "ncd55"),
    "stack": Case("nc nc", lambda a, b: torch.stack([a, b], 1), "nc"),
    "pad": Case("nc5", lambda x: F.pad(x, (1, 2, 0, 0)), "nc5", whole=False),
    "chunk": Case("n6l", lambda x: torch.cat([torch.mul(*x.chunk(2, 1)), x], 1), "n6l"),
    "chunk unequal": Case("n7l", lambda x: x.chunk(2, 1)[0], "n7l"),
    "split": Case("n6l", lambda x: x.split(2, 1)[1], "n6l"),
    "split sizes": Case("n6l", lambda x: x.split([4, 2], 1)[0], "n6l"),
    "tensor split": Case("n7l", lambda x: x.tensor_split(3, 1)[0], "n7l"),
    "split and joined": Case("n7l", lambda x: torch.cat(x.split([4, 3], 1)[::-1], 1), "n7l"),
    "glu": Case("n8l", lambda x: F.glu(x, 1), "n8l"),
    "unbind": Case("n3c", lambda x: x.unbind(1)[2], "nc"),
    "select": Case("nlc", lambda x: x[:, 1], "nlc"),
    "slice": Case("nlc", lambda x: x[:, :2], "nlc"),
    "slice from the end": Case("nlc", lambda x: x[:, -2:], "nlc"),
    "slice in steps": Case("nlc", lambda x: x[:, ::2], "nc"),
    "narrow": Case("n6c", lambda x: x.narrow(1, 2, 3), "n6c"),
    "slice of all": Case("nlc", lambda x: x[:, :, None], "nlc"),
    "squeeze": Case("n1c", lambda x: x.squeeze(1).unsqueeze(-1), "nc"),
    "expand": Case("n1c", lambda x: x.expand(-1, 5, -1), "nc"),
    "expand as": Case("n1c nlc", lambda x, y: x.expand_as(y), "nc"),
    "expand written": Case("12c", lambda x: x.expand(3, 2, -1), "2c"),
    "constant": Case("n7", lambda x: x + torch.ones(7), "n7"),
    "repeat": Case("nc2", lambda x: x.repeat(1, 3, 1), "nc2"),
    "repeat in front": Case("nc", lambda x: x.repeat(2, 1, 1), "nc"),
    "tile": Case("nc", lambda x: x.tile(2), "nc"),
    "interleave": Case("nc2", lambda x: x.repeat_interleave(2, 1), "nc2"),
    "flip": Case("nc2", lambda x: x.flip(1), "nc2"),
    "roll": Case("nlc", lambda x: x.roll(1, 1), "nlc"),
    "roll back": Case("n7l", lambda x: x.roll((-2, 9), (1, 2)), "n7l"),
    "scatter": Case(
        "nlc n2c", lambda x, y: x.scatter(1, torch.zeros_like(y, dtype=torch.long), y), "nc"
    ),
    "scatter of rows": Case(
        "n5c n2c", lambda x, y: x.scatter(1, torch.tensor([3, 1])[:, None].expand(y.shape), y), "nc"
    ),
    "scatter add": Case(
        "3c 2c",
        lambda x, y: x.scatter_add(0, torch.tensor([[2], [2]]).expand(2, y.shape[1]), y),
        "c",
    ),
    "index add": Case("n6c n2c", lambda x, y: x.index_add(1, torch.tensor([4, 1]), y), "nc"),
    "convolution": Case(
        "nc55 =fc33 =f",
        lambda x, w, b: torch.convolution(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        "ncf",
    ),
    "convolution, transposed": Case(
        "nc55 =cf33",
        lambda x, w: torch.convolution(x, w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1),
        "ncf",
    ),
    "layer norm with statistics": Case(
        "nlc =c =c",
        lambda x, w, b: torch.native_layer_norm(x, w.shape, w, b, 1e-5)[0],
        "nlc",
        declared="c",
    ),
    "attention below": Case(
        "bhte bhse bhse",
        lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0],
        "bh",
    ),
    "index put": Case("6c 2c", lambda x, y: x.index_put((torch.tensor([4, 1]),), y), "c"),
    "index put inside": Case(
        "n6c n2c",
        lambda x, y: torch.ops.aten.index_put(x, [None, torch.tensor([4, 1])], y),
        "nc",
    ),
    "index put apart": Case(
        "3n4 2n",
        lambda x, y: torch.ops.aten.index_put(
            x, [torch.tensor([0, 2]), None, torch.tensor([1, 3])], y
        ),
        "n",
    ),
    "index put by a mask": Case(
        "5c c",
        lambda x, y: torch.ops.aten.index_put(
            x, [torch.tensor([True, False, True, False, True])], y
        ),
        "c",
    ),
    "permute": Case("nchw", lambda x: x.permute(0, 2, 3, 1), "nchw"),
    "transpose": Case("nlc", lambda x: x.transpose(1, -1), "nlc"),
    "movedim": Case("nchw", lambda x: x.movedim(1, -1), "nchw"),
    "movedims": Case("nchw", lambda x: x.movedim((0, 3), (2, 0)), "nchw"),
    "flatten": Case("nc34", lambda x: x.flatten(1), "nc", still="34"),
    "unflatten": Case("n6l", lambda x: x.unflatten(1, (2, 3)), "n6l"),
    "read as pixels": Case("nc34", lambda x: x.flatten(1).view(len(x), -1, 12), "nc", still="34"),
    "heads open": Case("238", lambda x: x.view(2, 3, -1, 4).transpose(1, 2), "238"),
    "heads written": Case("238", lambda x: x.view(2, 3, 4, 2).transpose(1, 2), "238"),
    "heads and back": Case(
        "238", lambda x: x.view(2, 3, 4, 2).transpose(1, 2).tanh().transpose(1, 2).flatten(2), "238"
    ),
    "windows": Case(
        "2463",
        lambda x: x.view(2, 2, 2, 2, 3, 3).transpose(2, 3).reshape(-1, 2, 3, 3),
        "3",
        still="246",
    ),
    "pixel shuffle": Case("n833", lambda x: F.pixel_shuffle(x, 2), "n8"),
    "pixel unshuffle": Case("nc44", lambda x: F.pixel_unshuffle(x, 2), "nc"),
    "channel shuffle": Case("n655", lambda x: F.channel_shuffle(x, 3), "n655"),
    "shuffle by views": Case(
        "265", lambda x: x.view(2, 3, -1, 5).transpose(1, 2).reshape(2, -1, 5), "265"
    ),
}


class Call(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor):
        return self.call(*inputs)


@pytest.mark.parametrize(("name", "seed"), [*itertools.product(CASES, range(2))])
def test_labels_say_what_the_operator_does(name: str, seed: int):
    case = CASES[name]
    free = {c for c in case.shapes if c.isalpha()}
    draw = random.Random(f"{name} {seed}")
    sizes = dict(zip(sorted(free), draw.sample(range(2, 12), len(free)), strict=True))
    shapes = [[sizes.get(c) or int(c) for c in one.lstrip("=")] for one in case.shapes.split()]
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    found = _carried(case, shapes, inputs)
    labels, values, output = found.labels, found.inputs, found.output
    expected = case.call(*inputs)
    assert tuple(expected.shape) == tuple(map(len, output))
    live: dict[int, set[str]] = {}
    for text, value in zip(case.shapes.split(), values, strict=True):
        for letter, own in zip(text.lstrip("="), value, strict=True):
            for root in labels.classes(own):
                if root >= 0:
                    live.setdefault(int(root), set()).add(letter)
    assert {letter for own in live.values() for letter in own} == set(case.live)
    kept_only = {root: live[root] for root in labels.changes() if root in live}
    assert {letter for own in kept_only.values() for letter in own} == set(case.declared)
    classes = [labels.classes(own) for own in output]
    for root, letters in live.items():
        own = [[labels.classes(one) == root for one in value] for value in values]
        gone = [one == root for one in classes]
        marked = _mask(gone)
        if marked.any() and case.whole and root not in kept_only:
            probed = [
                x.masked_fill(_mask(hit), torch.nan) for x, hit in zip(inputs, own, strict=True)
            ]
            assert torch.equal(case.call(*probed).isnan(), marked), letters
        zeroed = [x.masked_fill(_mask(hit), 0) for x, hit in zip(inputs, own, strict=True)]
        smaller = [_kept(x, hit) for x, hit in zip(inputs, own, strict=True)]
        if all(x.numel() for x in smaller) and not all(one.all() for one in gone):
            result = found.smaller(root, smaller)
            assert result.shape == _kept(expected, gone).shape
            if root not in kept_only:
                torch.testing.assert_close(
                    result, _kept(case.call(*zeroed), gone), msg=str(letters)
                )


@dataclass(frozen=True)
class Carried:
    """An operator's program with its labels."""

    program: torch.export.ExportedProgram
    labels: Labels
    values: dict[object, object]
    inputs: list[Value]
    output: Value

    def smaller(self, root: int, inputs: list[Tensor]) -> Tensor:
        """Returns what the program computes without a class, its sizes derived anew."""
        roots = self.labels.roots()
        module = copy.deepcopy(self.program.graph_module)
        values = {node.name: value for node, value in self.values.items()}
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                fit(
                    node, Remainder(roots != root), lambda one: values.get(getattr(one, "name", ""))
                )
        module.recompile()
        given = iter(inputs)
        constants = self.program.graph_signature.inputs_to_lifted_tensor_constants
        arguments = [
            self.program.constants[constants[node.name]] if node.name in constants else next(given)
            for node in module.graph.nodes
            if node.op == "placeholder"
        ]
        return module(*arguments)[0]


def _carried(case: Case, shapes: list[list[int]], inputs: list[Tensor]) -> Carried:
    """Walks labels through the operator's graph, all inputs free to shrink but what is still."""
    program = torch.export.export(Call(case.call), tuple(inputs), strict=False)
    labels, values = Labels(), {}
    free: list[Value] = []
    texts = case.shapes.split()
    parameters = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            shape = node.meta["val"].shape
            if node.name in program.graph_signature.user_inputs:
                text = texts[len(free)]
                values[node] = tuple(
                    labels.fixed(size, "still") if letter in case.still else labels.fresh(size)
                    for letter, size in zip(text.lstrip("="), shape, strict=True)
                )
                if text.startswith("="):
                    parameters.add(node)
                free.append(values[node])
            else:
                values[node] = tuple(labels.fixed(size, "constant") for size in shape)
        elif node.op == "call_function":
            others = set(program.graph.nodes) - parameters
            at = Visit(node, labels=labels, values=values, from_input=others)
            found = rule_for(node.target)
            assert found is not None, node.target
            values[node] = found(at)
    labels.settle()
    last = next(iter(program.graph.output_node().args[0]))
    return Carried(program, labels, values, free, values[last])


def _mask(dims: list[np.ndarray]) -> Tensor:
    """Returns which elements stand in any of the marked slices."""
    mask = torch.zeros([len(one) for one in dims], dtype=torch.bool)
    for dim, one in enumerate(dims):
        mask.index_fill_(dim, torch.from_numpy(one.nonzero()[0]), True)
    return mask


def _kept(x: Tensor, dims: list[np.ndarray]) -> Tensor:
    for dim, one in enumerate(dims):
        x = x.index_select(dim, torch.from_numpy((~one).nonzero()[0]))
    return x
