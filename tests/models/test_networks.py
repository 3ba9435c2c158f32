"""Every network: its published counts, its options, any batch, and what it refuses."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tersenet import models
from tersenet.errors import StructureError
from tersenet.graph import macs
from tersenet.graph.reading import export
from tersenet.models import MODELS


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


# As torchvision lists them for its own, LeNet-5 and DenseNet as widely reported.
PARAMETERS = {
    "alexnet": 61_100_840,
    "densenet": 1_019_722,
    "lenet5": 61_706,
    "lenet5-caffe": 431_080,
    "mobilenet-v1": 4_231_976,
    "mobilenet-v2": 3_504_872,
    "mobilenet-v3": 5_483_032,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "shufflenet-v2": 2_278_604,
    "squeezenet": 1_248_424,
    "vgg16": 138_357_544,
    "vgg16-bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19-bn": 143_678_248,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameters(name: str) -> None:
    with torch.device("meta"):
        assert parameters(MODELS[name]()) == PARAMETERS[name]


def test_published_parameters_of_the_other_forms() -> None:
    with torch.device("meta"):
        assert parameters(models.mobilenet_v3(size="small")) == 2_542_856
        found = {width: parameters(models.shufflenet_v2(width=width)) for width in (0.5, 1.5, 2.0)}
        assert found == {0.5: 1_366_792, 1.5: 3_503_624, 2.0: 7_393_996}
        # GhostNet's abstract and DenseNet's table 2 say 5.2 and 7.0 million.
        assert round(parameters(models.ghostnet()) / 1e6, 1) == 5.2
        assert parameters(models.densenet(depth=100)) == pytest.approx(7.0e6, rel=0.02)


# Billions of multiply-accumulates at 224x224, to the digits published.
MACS = {
    "alexnet": (0.71, 2),
    "vgg16": (15.47, 2),
    "resnet18": (1.814, 3),
    "resnet50": (4.089, 3),
    "squeezenet": (0.82, 2),
    "mobilenet-v1": (0.569, 3),
    "mobilenet-v2": (0.301, 3),
    "mobilenet-v3": (0.217, 3),
    "shufflenet-v1": (0.14, 2),
    "shufflenet-v2": (0.145, 3),
    "ghostnet": (0.14, 2),
}


@pytest.mark.parametrize("name", MACS)
def test_published_macs(name: str) -> None:
    """Each output of a layer costs as many as a filter has weights."""
    found = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal found
        found += output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = MODELS[name]().eval()
        for one in model.modules():
            if isinstance(one, nn.Conv2d | nn.Linear):
                one.register_forward_hook(count)
        model(torch.zeros(1, 3, 224, 224))
    published, digits = MACS[name]
    assert round(found / 1e9, digits) == published


def test_the_graph_counts_the_same() -> None:
    model = models.mobilenet_v2(classes=1000)
    assert round(macs(model, (torch.zeros(2, 3, 224, 224),)) / 1e9, 3) == 0.301


FORMS: dict[str, tuple[Callable[..., nn.Module], dict[str, object], tuple[int, ...]]] = {
    "lenet5": (models.lenet5, {}, (28,)),
    "lenet5-32": (models.lenet5, {"pixels": 32}, (32,)),
    "lenet5-caffe": (models.lenet5_caffe, {}, (28,)),
    "alexnet": (models.alexnet, {}, (64,)),
    "vgg-small": (models.vgg_small, {"width": 8}, (28, 32)),
    "squeezenet": (models.squeezenet, {}, (32,)),
    "densenet": (models.densenet, {"depth": 10}, (28, 32)),
    "resnet18": (models.resnet18, {}, (32,)),
    "mobilenet-v1": (models.mobilenet_v1, {"width": 0.25}, (32, 64)),
    "mobilenet-v2-small": (models.mobilenet_v2_small, {}, (28, 32)),
    "mobilenet-v3-small": (models.mobilenet_v3, {"size": "small", "width": 0.5}, (64,)),
    "shufflenet-v1": (models.shufflenet_v1, {"groups": 8, "width": 0.25}, (64,)),
    "shufflenet-v2-small": (models.shufflenet_v2_small, {}, (28, 32)),
    "ghostnet-small": (models.ghostnet_small, {"width": 0.3}, (28, 32)),
}


@pytest.mark.parametrize("name", FORMS)
def test_grey_images_of_any_batch_give_one_logit_per_class(name: str) -> None:
    build, options, sides = FORMS[name]
    model = build(in_channels=1, classes=7, **options).eval()
    program = export(model, (torch.zeros(2, 1, sides[0], sides[0]),), any_batch=True).module()
    with torch.no_grad():
        for side in sides:
            assert model(torch.randn(2, 1, side, side)).shape == (2, 7)
        x = torch.randn(3, 1, sides[0], sides[0])
        assert torch.allclose(program(x), model(x), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_every_published_number_of_groups_runs(groups: int) -> None:
    model = models.shufflenet_v1(groups=groups, width=0.25, classes=7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ["mobilenet-v2-small", "shufflenet-v2-small", "ghostnet-small"])
@pytest.mark.parametrize("side", [28, 32])
def test_small_images_are_four_pixels_wide_at_the_end(name: str, side: int) -> None:
    model = MODELS[name](in_channels=1).eval()
    sizes = []
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.register_forward_hook(lambda *call: sizes.append(tuple(call[-1].shape[-2:])))
    model(torch.zeros(1, 1, side, side))
    assert sizes[0] == (side, side)
    assert sizes[-1] == min(sizes) == (4, 4)


@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "ghostnet"])
def test_width_scales_the_filters(name: str) -> None:
    """Parameters grow between linearly and quadratically."""
    with torch.device("meta"):
        half, whole = MODELS[name](width=0.5), MODELS[name](width=1.0)
    assert 1.5 < parameters(whole) / parameters(half) < 4


def test_half_width_as_published() -> None:
    """Table 6 of MobileNet: 1.3 million; MobileNetV2's checkpoint of width 0.5: 1,968,680."""
    with torch.device("meta"):
        assert round(parameters(models.mobilenet_v1(width=0.5)) / 1e6, 1) == 1.3
        assert parameters(models.mobilenet_v2(width=0.5)) == 1_968_680


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: models.densenet(depth=41), "not 3n"),
        (lambda: models.densenet(depth=4), "not 3n"),
        (lambda: models.densenet(growth=0), "add none"),
        (lambda: models.vgg_small(width=0), "0 filters"),
        (lambda: models.mobilenet_v1(width=0.0), "no channels"),
        (lambda: models.mobilenet_v2(width=-1.0), "no channels"),
        (lambda: models.mobilenet_v3(width=float("nan")), "no channels"),
        (lambda: models.ghostnet(width=float("inf")), "no channels"),
        (lambda: models.shufflenet_v2(width=0.7), "no width of 0.7"),
        (lambda: models.Ghost(8, 8, split=1), "no ghosts"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(StructureError, match=words):
        build()


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("lenet5", 32, r"^this LeNet-5 reads images of 28×28 pixels, not 32×32: .* pixels: 32\.$"),
        ("lenet5", 24, "of 28×28 pixels, not 24×24"),
        ("lenet5-caffe", 32, "^LeNet-5 of Caffe reads images of 28×28 pixels, not 32×32"),
        ("alexnet", 62, "^AlexNet reads images of 63×63 pixels or more, not 62×62: "),
        ("vgg16", 28, r"^VGG reads images of 32×32 pixels or more, not 28×28: .* vgg-small\.$"),
        ("vgg19-bn", 31, "of 32×32 pixels or more, not 31×31"),
    ],
)
def test_images_of_a_wrong_size_are_refused(name: str, side: int, words: str) -> None:
    with torch.device("meta"):
        model = MODELS[name](in_channels=1).eval()
        with pytest.raises(StructureError, match=words):
            model(torch.zeros(1, 1, side, side))
        least = {"lenet5": 28, "lenet5-caffe": 28, "alexnet": 63}.get(name, 32)
        assert model(torch.zeros(1, 1, least, least)).shape[0] == 1


def test_every_network_of_a_recipe_is_built_from_channels_and_classes() -> None:
    with torch.device("meta"):
        for name, build in MODELS.items():
            model = build(in_channels=2, classes=5)
            first = next(one for one in model.modules() if isinstance(one, nn.Conv2d))
            assert first.in_channels == 2, name
            last = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)][-1]
            assert last.weight.shape[0] == 5, name
