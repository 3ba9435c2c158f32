"""Whole networks on compressed matrices, from a file: as the dense network to 1e-5."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.core.types import Deployment
from tersenet.errors import ExportError
from tersenet.export import to_formats
from tersenet.export.formats.draft import grid_by_channel
from tersenet.formats import Dense, FastMatrix, load_network
from tersenet.measure import network_memory
from tersenet.measure.process import ask
from tersenet.models import ghostnet_small, lenet5, mobilenet_v2_small, resnet, vgg_small


def crushed(model, *, zeros=0.9, top=7, by_channel=False):
    """The model with its smallest weights cut, the rest on a grid, and norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.data
            rows = weight.flatten(1)
            sizes = rows.abs().amax(1, keepdim=True) if by_channel else rows.abs().max()
            cut = rows.abs().flatten().kthvalue(max(1, int(weight.numel() * zeros))).values
            grid = torch.round(rows / sizes * top) * (sizes / top) * (rows.abs() > cut)
            weight.copy_(grid.view_as(weight))
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Dropout(), nn.Linear(300, 10)
    )


NETWORKS = {
    "mlp": (mlp, (1, 28, 28)),
    "lenet": (lenet5, (1, 28, 28)),
    "vgg-small": (lambda: vgg_small(width=8), (3, 32, 32)),
    "resnet": (lambda: resnet(depth=8), (3, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("choose", ["smallest", "fastest"])
def test_a_file_computes_what_the_network_computes(name, choose, tmp_path):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = crushed(build())
    before = copy.deepcopy(model.state_dict())
    path = tmp_path / "network.tnn"
    to_formats(model, (torch.randn(2, *shape),), path, choose=choose)
    network = load_network(path)
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    error = np.abs(network(x.numpy()) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
    if choose == "smallest":
        assert all(isinstance(matrix, FastMatrix) for matrix in network.matrices)
        assert network.memory_bytes < 0.25 * network.dense_bytes
        assert path.stat().st_size < 0.4 * network.dense_bytes
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value.to(before[key].dtype), before[key], rtol=0, atol=0)


def test_grids_by_channel_become_integers_and_factors(tmp_path):
    torch.manual_seed(0)
    model = crushed(vgg_small(width=8), zeros=0.5, by_channel=True)
    x = torch.randn(2, 3, 32, 32)
    network = to_formats(model, (x,), tmp_path / "network.tnn")
    assert not any(isinstance(matrix, Dense) for matrix in network.matrices)
    assert {matrix.dtype.name for matrix in network.matrices[1:]} == {"int8"}
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.abs(network(x.numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_grid_is_found_only_where_there_is_one():
    rng = np.random.default_rng(0)
    levels = rng.integers(-127, 128, (20, 200))
    levels[3] = 0
    levels[:, :2] = [127, 126]
    levels[3, :2] = 0
    steps = rng.uniform(1e-4, 10, 20).astype(np.float32)
    found = grid_by_channel(levels.astype(np.float32) * steps[:, None])
    assert found is not None
    np.testing.assert_array_equal(found[0], levels)
    used = np.arange(20) != 3
    np.testing.assert_allclose(found[1][used], steps[used], rtol=1e-6)
    assert grid_by_channel(rng.standard_normal((2, 50)).astype(np.float32)) is None
    few = np.array([[100, -60, 7]], np.float32) * np.float32(0.013)  # no two are neighbours
    (levels,), (step,) = grid_by_channel(few)
    np.testing.assert_array_equal(levels, [100, -60, 7])
    assert step == pytest.approx(0.013)


@pytest.mark.parametrize(
    ("bits", "zeros"), [(8, 0.0), (8, 0.9), (6, 0.5)], ids=["8 bits", "8 bits, pruned", "6 bits"]
)
def test_networks_of_8_bits_take_a_byte_or_less(bits, zeros, tmp_path):
    torch.manual_seed(0)
    model = crushed(vgg_small(width=16), zeros=zeros, top=2 ** (bits - 1) - 1, by_channel=True)
    x = torch.randn(2, 3, 32, 32)
    network = to_formats(model, (x,), tmp_path / "network.tnn")
    assert network.memory_bytes < 0.3 * network.dense_bytes
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.abs(network(x.numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("build", [ghostnet_small, mobilenet_v2_small])
def test_depthwise_layers_gates_and_joins(build, tmp_path):
    torch.manual_seed(0)
    model = crushed(build(width=0.25), zeros=0.3, top=127, by_channel=True)
    x = torch.randn(2, 3, 32, 32)
    path = tmp_path / "network.tnn"
    to_formats(model, (x,), path)
    with torch.no_grad():
        expected = model(x).numpy()
    found = load_network(path)(x.numpy())
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_dense_storage_to_compare_with(tmp_path):
    x = torch.randn(1, 1, 28, 28)
    network = to_formats(lenet5().eval(), (x,), tmp_path / "network.tnn", choose="dense")
    assert all(isinstance(matrix, Dense) for matrix in network.matrices)
    assert network.dense_bytes == network.memory_bytes == 4 * 61_706


class Odd(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.compute = compute

    def forward(self, x):
        return self.compute(self, x)


POOLS = {
    "max": lambda m, x: functional.max_pool2d(m.layer(x), 3, 2, 1),
    "average": lambda m, x: functional.avg_pool2d(
        m.norm(x), (2, 3), (1, 2), (1, 1), count_include_pad=False
    ),
    "adaptive": lambda m, x: functional.adaptive_avg_pool2d(x, (3, None)),
    "mean": lambda m, x: m.layer(x).relu().mean((2, 3)),
    "same": lambda m, x: functional.conv2d(x, m.layer.weight, padding="same", dilation=2),
    "clipped": lambda m, x: functional.relu6(m.layer(x)) + m.layer(x).clamp(-0.5, 0.25),
    "hard swish": lambda m, x: functional.hardswish(m.layer(x)),
    "split": lambda m, x: torch.cat([part.relu() for part in m.layer(x).split([1, 3], 1)[::-1]], 1),
    "norm of what is added": lambda m, x: m.norm(x + x),
    "layer read twice": lambda m, x: m.norm(y := m.layer(x)) + y,
}


@pytest.mark.parametrize("name", POOLS)
def test_operators_and_where_a_norm_cannot_be_folded(name, tmp_path):
    torch.manual_seed(0)
    model = crushed(Odd(POOLS[name]), zeros=0.3)
    x = torch.randn(3, 4, 9, 8)
    to_formats(model, (x,), tmp_path / "network.tnn")  # raises where the outputs differ
    with torch.no_grad():
        expected = model(x).numpy()
    found = load_network(tmp_path / "network.tnn")(x.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda m, x: torch.sigmoid(x), "aten.sigmoid.default"),
        (lambda m, x: functional.conv2d(x, m.layer.weight.relu()), "operand 0 is no activation"),
        (lambda m, x: functional.max_pool2d(x, 2, ceil_mode=True), "beyond the edge"),
        (lambda m, x: x.mean(1), "means over rows"),
        (lambda m, x: torch.add(x, x, alpha=2), "is scaled"),
        (lambda m, x: x + 1, "no activation"),
        (lambda m, x: x.clamp(min=0.5), "one bound"),
        (lambda m, x: torch.cat([x, x], 2), "only channels can be joined"),
        (lambda m, x: x.split(4, 2)[0] + 0 * x.split(4, 2)[1], "only channels can be split"),
        (lambda m, x: x * 2, "no activation"),
        (lambda m, x: x.view(x.shape[0], 8, -1), "flattening"),
    ],
)
def test_what_the_formats_do_not_compute_is_refused_by_name(compute, message, tmp_path):
    path = tmp_path / "network.tnn"
    with pytest.raises(ExportError, match=message):
        to_formats(Odd(compute).eval(), (torch.randn(2, 4, 8, 8),), path)
    assert not path.exists()


def test_weights_that_are_not_finite_are_refused_by_layer(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    model[1].weight.data[1, 2] = torch.nan
    with pytest.raises(ExportError, match=r"at 'linear_1': .* nan at row 1, column 2"):
        to_formats(model, (torch.randn(2, 4),), tmp_path / "network.tnn")


@pytest.mark.parametrize(
    ("channels", "groups", "settings"),
    [
        ((4, 6), 2, {"stride": 2, "padding": 1}),
        ((6, 6), 6, {"padding": (2, 1), "dilation": (2, 1)}),  # depthwise
        ((3, 9), 3, {"stride": (1, 2), "bias": False}),  # three outputs a channel
        ((8, 4), 4, {}),
    ],
)
def test_convolutions_in_groups(channels, groups, settings, tmp_path):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, 3, groups=groups, **settings)
    model = crushed(nn.Sequential(layer, nn.BatchNorm2d(channels[1])), zeros=0.3, by_channel=True)
    x = torch.randn(3, channels[0], 9, 8)
    path = tmp_path / "network.tnn"
    to_formats(model, (x,), path)
    with torch.no_grad():
        expected = model(x).numpy()
    found = load_network(path)(x.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_process_that_runs_the_file_needs_less_memory_and_no_pytorch(tmp_path):
    torch.manual_seed(0)
    model = crushed(nn.Sequential(nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096)), top=15)
    x = torch.randn(1, 512)
    files = {}
    for choose in ("smallest", "dense"):
        files[choose] = tmp_path / f"{choose}.tnn"
        network = to_formats(model, (x,), files[choose], choose=choose)
    saved = network.dense_bytes - load_network(files["smallest"]).memory_bytes
    assert saved > 0.9 * network.dense_bytes  # of 75 MB
    peak = network_memory(files["smallest"])
    deployment = Deployment(runtime="onnxruntime", threads=1)
    settings = {"deployment": deployment, "batch": 1, "seed": 0}
    dense = ask("network", {"own": files["dense"]}, **settings)
    idle = ask("network", {}, **settings)
    assert dense["peak_bytes"] - peak > 0.8 * saved
    # Nothing of the size of the weights as floats is ever there.
    assert peak - idle["peak_bytes"] < 0.25 * network.dense_bytes
    assert dense["torch"] is False
