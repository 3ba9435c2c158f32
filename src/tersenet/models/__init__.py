"""Reference networks, each a short file citing its paper."""

from collections.abc import Callable
from typing import Final

from torch import nn

from tersenet.core.parts import Parts
from tersenet.models._alexnet import alexnet
from tersenet.models._densenet import densenet
from tersenet.models._ghostnet import Ghost, ghost_macs, ghost_speedup, ghostnet, ghostnet_small
from tersenet.models._lenet import lenet5
from tersenet.models._lenet_caffe import lenet5_caffe
from tersenet.models._mobilenet_v1 import (
    mobilenet_v1,
    separable_block,
    separable_macs,
    standard_macs,
)
from tersenet.models._mobilenet_v2 import InvertedResidual, mobilenet_v2, mobilenet_v2_small
from tersenet.models._mobilenet_v3 import GatedResidual, hswish, mobilenet_v3
from tersenet.models._resnet_bottleneck import preresnet_bottleneck, resnet_bottleneck
from tersenet.models._resnet_cifar import resnet
from tersenet.models._resnet_imagenet import resnet18, resnet50
from tersenet.models._shufflenet_v1 import (
    ShuffleUnit,
    bottleneck_macs,
    shuffle,
    shuffle_macs,
    shufflenet_v1,
)
from tersenet.models._shufflenet_v2 import shufflenet_v2, shufflenet_v2_small
from tersenet.models._squeezenet import Fire, squeezenet
from tersenet.models._vgg import vgg16, vgg16_bn, vgg19, vgg19_bn, vgg_small

__all__ = [
    "MODELS",
    "Fire",
    "GatedResidual",
    "Ghost",
    "InvertedResidual",
    "ShuffleUnit",
    "alexnet",
    "bottleneck_macs",
    "densenet",
    "ghost_macs",
    "ghost_speedup",
    "ghostnet",
    "ghostnet_small",
    "hswish",
    "lenet5",
    "lenet5_caffe",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v2_small",
    "mobilenet_v3",
    "preresnet_bottleneck",
    "resnet",
    "resnet18",
    "resnet50",
    "resnet_bottleneck",
    "separable_block",
    "separable_macs",
    "shuffle",
    "shuffle_macs",
    "shufflenet_v1",
    "shufflenet_v2",
    "shufflenet_v2_small",
    "squeezenet",
    "standard_macs",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vgg_small",
]

MODELS: Final[Parts[Callable[..., nn.Module]]] = Parts(
    "model", package="tersenet.models", plugins="tersenet.models"
)
"""Networks by the key of a recipe's `model` section."""

for _name, _model in {
    "resnet": resnet,
    "resnet-bottleneck": resnet_bottleneck,
    "preresnet-bottleneck": preresnet_bottleneck,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "lenet5": lenet5,
    "lenet5-caffe": lenet5_caffe,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "vgg16-bn": vgg16_bn,
    "vgg19": vgg19,
    "vgg19-bn": vgg19_bn,
    "vgg-small": vgg_small,
    "squeezenet": squeezenet,
    "densenet": densenet,
    "mobilenet-v1": mobilenet_v1,
    "mobilenet-v2": mobilenet_v2,
    "mobilenet-v2-small": mobilenet_v2_small,
    "mobilenet-v3": mobilenet_v3,
    "shufflenet-v1": shufflenet_v1,
    "shufflenet-v2": shufflenet_v2,
    "shufflenet-v2-small": shufflenet_v2_small,
    "ghostnet": ghostnet,
    "ghostnet-small": ghostnet_small,
}.items():
    MODELS.add(_name, _model)
