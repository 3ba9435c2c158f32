"""Networks of torchvision and of timm: one per architecture module, its smallest member or so.

PyPI's torchvision carries compiled operators for CUDA alone. With the names of two of them
declared it imports on a CPU build, and its networks need none of them.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from zoo import Network

__all__ = ["TIMM", "TORCHVISION", "build_timm", "build_torchvision", "declare"]

_DECLARED: Final = torch.library.Library("torchvision", "DEF")  # lives as long as the names

_TORCHVISION: Final = """
    alexnet 64
    convnext_tiny 64
    densenet121 64
    efficientnet_b0 64
    efficientnet_v2_s 64
    googlenet 64 init_weights=False aux_logits=False
    inception_v3 96 init_weights=False aux_logits=False
    maxvit_t 224
    mnasnet0_5 64
    mobilenet_v2 64
    mobilenet_v3_small 64
    regnet_x_400mf 64
    regnet_y_400mf 64
    resnet18 64
    resnet50 64
    resnext50_32x4d 64
    shufflenet_v2_x0_5 64
    squeezenet1_1 64
    swin_t 64
    swin_v2_t 64
    vgg11_bn 64
    vit_b_16 32 image_size=32
    wide_resnet50_2 64
    segmentation.deeplabv3_mobilenet_v3_large 64 weights_backbone=None
    segmentation.fcn_resnet50 64 weights_backbone=None
    segmentation.lraspp_mobilenet_v3_large 64 weights_backbone=None
    video.mc3_18 16
    video.r2plus1d_18 16
    video.r3d_18 16
    video.swin3d_t 32
    detection.fasterrcnn_mobilenet_v3_large_fpn 64 weights_backbone=None
    detection.fcos_resnet50_fpn 64 weights_backbone=None
    detection.maskrcnn_resnet50_fpn 64 weights_backbone=None
    detection.retinanet_resnet50_fpn 64 weights_backbone=None
    detection.ssdlite320_mobilenet_v3_large 96 weights_backbone=None
    detection.ssd300_vgg16 300 weights_backbone=None
    optical_flow.raft_small 128
"""

_TIMM: Final = """
    beitv2_base_patch16_224 64 img_size=64 depth=3
    eca_botnext26ts_256 64 img_size=64
    repvgg_a0 64
    cait_xxs24_224 64 img_size=64 depth=4
    coat_lite_tiny 64 img_size=64
    convit_tiny 64 img_size=64 depth=4 local_up_to_layer=2
    convmixer_768_32 64
    convnextv2_atto 64
    cpubone_nano 64
    crossvit_9_240 64
    csatv2 64
    cspresnet50 64
    cspnext_tiny 64
    davit_tiny 64
    deepseek_vit_412m 56 img_size=56 depth=2
    deit_tiny_distilled_patch16_224 64 img_size=64 depth=4
    densenet121 64
    dla46_c 64
    dpn68 64
    edgenext_xx_small 64
    efficientformer_l1 224
    efficientformerv2_s0 64 img_size=64
    efficientnet_b0 64
    efficientvim_m1 64
    efficientvit_b0 64
    efficientvit_m0 64
    eva02_tiny_patch14_224 56 img_size=56 depth=4
    fasternet_t0 64
    fastvit_t8 64
    focalnet_tiny_srf 64
    gcvit_xxtiny 64 img_size=64
    gemma4_vit_167m 64 depth=2
    ghostnet_050 64
    hardcorenas_a 64
    hgnetv2_b0 64
    hiera_tiny_224 64 img_size=64
    sam2_hiera_tiny 64
    hrnet_w18_small 64
    iformer_t 64
    inception_next_atto 64
    inception_resnet_v2 96
    inception_v3 96
    inception_v4 96
    lcnetv2_small 64
    levit_128s 64 img_size=64
    lowformer_b0 64
    mambaout_femto 64
    maxvit_pico_rw_256 64 img_size=64
    poolformer_s12 64
    mixer_s32_224 64 img_size=64
    gmlp_ti16_224 64 img_size=64
    mobilenetv3_small_050 64
    mobilenetv5_base 64
    mobilevit_xxs 64
    mvitv2_tiny 64
    naflexvit_base_patch16_gap 64 depth=2
    nasnetalarge 64
    nest_tiny 64 img_size=64
    nextvit_small 64
    nf_regnet_b0 64
    pit_ti_224 64 img_size=64
    pnasnet5large 64
    pvt_v2_b0 64
    qwen3_vit_88m 64 depth=2
    rdnet_tiny 64
    regnetx_002 64
    regnetz_005 64
    repghostnet_050 64
    repvit_m0_9 64
    res2net50_14w_8s 64
    resnest14d 64
    resnet10t 64
    resnetv2_18 64
    rexnet_100 64
    selecsls42 64
    legacy_seresnet18 64
    sequencer2d_s 64
    shvit_s1 64
    skresnet18 64
    starnet_s050 64
    swiftformer_xs 64
    swin_tiny_patch4_window7_224 64 img_size=64
    swinv2_tiny_window8_256 64 img_size=64
    swinv2_cr_tiny_224 64 img_size=64
    tiny_vit_5m_224 64
    tnt_s_patch16_224 64 img_size=64 depth=4
    tresnet_m 64
    twins_svt_small 64
    vgg11_bn 64
    visformer_tiny 64 img_size=64
    vit_tiny_patch16_224 64 img_size=64 depth=4
    vit_tiny_r_s16_p8_224 64 img_size=64
    vit_relpos_small_patch16_224 64 img_size=64 depth=4
    samvit_base_patch16 64 depth=2 global_attn_indexes=()
    vitamin_small_224 64 img_size=64
    volo_d1_224 64 img_size=64
    vovnet39a 64
    legacy_xception 64
    xception41 64
    xcit_nano_12_p16_224 64
"""


def _entries(text: str) -> dict[str, tuple[int, dict[str, Any]]]:
    """Reads 'name side option=value …' by lines."""
    known = {"True": True, "False": False, "None": None, "()": ()}
    found = {}
    for name, side, *options in map(str.split, text.strip().splitlines()):
        pairs = (one.split("=") for one in options)
        values = {key: known[value] if value in known else int(value) for key, value in pairs}
        found[name] = (int(side), values)
    return found


TORCHVISION: Final[Mapping[str, tuple[int, dict[str, Any]]]] = _entries(_TORCHVISION)
TIMM: Final[Mapping[str, tuple[int, dict[str, Any]]]] = _entries(_TIMM)


class Pair(nn.Module):
    """Optical flow between two images: the last of its refinements."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the flow after two rounds."""
        return self.net(first, second, num_flow_updates=2)[-1]


class Features(nn.Module):
    """A detector up to its maps of classes and boxes; what selects among them is no network."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> Any:
        """Returns the head's maps for each level of the pyramid."""
        return self.head(list(self.backbone(x).values()))


def build_torchvision(name: str) -> Network:
    """Returns one of `TORCHVISION`."""
    declare()
    torchvision: Any = importlib.import_module("torchvision")
    side, options = TORCHVISION[name]
    place, _, own = name.rpartition(".")
    module: Any = torchvision.models
    module = getattr(module, place) if place else module
    if place == "optical_flow":
        return Network(Pair(getattr(module, own)(weights=None)).eval(), _images(side, count=2))
    classes = 10 if place != "detection" or "rcnn" not in own else 2
    model = getattr(module, own)(weights=None, num_classes=classes, **options).eval()
    if place == "detection":
        return Network(Features(model).eval(), _images(side))
    return Network(model, _images(*([8] if place == "video" else []), side))


def build_timm(name: str) -> Network:
    """Returns one of `TIMM`."""
    declare()
    timm: Any = importlib.import_module("timm")
    side, options = TIMM[name]
    return Network(timm.create_model(name, num_classes=10, **options).eval(), _images(side))


def _images(*sides: int, count: int = 1) -> Any:
    shape = (*sides[:-1], sides[-1], sides[-1])
    return lambda samples: tuple(torch.randn(samples, 3, *shape) for _ in range(count))


def declare() -> None:
    """Lets torchvision be imported without its compiled operators."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _DECLARED.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
