"""What a network costs by count: parameters, multiply-accumulates, layer by layer."""

from collections.abc import Mapping

from torch import Tensor, nn

from tersenet.core.types import LayerCost
from tersenet.graph.products import LEVELS, Product, products, sample_count
from tersenet.graph.reading import export, tensors_of
from tersenet.graph.visit import shape_of

__all__ = ["layer", "layers", "macs", "parameters"]


def layers(model: nn.Module, example: tuple[Tensor, ...]) -> list[LayerCost]:
    """Returns the convolutions and matrix products in the order of execution.

    Counted from the shapes in the exported graph: conv MACs = Ho·Wo·Co·(Ci/g)·Kh·Kw, linear
    MACs = in·out for each position. Figures are of one sample.

    Raises:
        StructureError: if the network cannot be exported.
    """
    program = export(model, example)
    batch, tensors = sample_count(program), tensors_of(model)
    return [layer(product, tensors, batch) for product in products(program)]


def layer(product: Product, tensors: Mapping[str, Tensor], batch: int) -> LayerCost:
    """Returns a product as a layer, with the tensors it stores counted."""
    own = [(name, tensors[name]) for name in product.stored if name in tensors]
    counted = [
        parameter
        for name, parameter in own
        if isinstance(parameter, nn.Parameter) or name.endswith(LEVELS)
    ]
    weight = tensors.get(product.tensor or "")
    return LayerCost(
        site=product.site,
        kind=product.kind,
        weight=() if product.weight is None else shape_of(product.weight),
        output=shape_of(product.node)[1:],
        params=sum(parameter.numel() for parameter in counted),
        macs=product.macs // batch,
        bits=32 if weight is None else 8 * weight.element_size(),
    )


def macs(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Returns the multiply-accumulates of one sample. Raises as `layers`."""
    return sum(layer.macs for layer in layers(model, example))


def parameters(model: nn.Module) -> tuple[int, int]:
    """Returns how many parameters a network has, and how many of them are not zero.

    Integer-coded weights and biases count too: buffers whose name ends in '.levels'. Running
    statistics do not.
    """
    coded = [buffer for name, buffer in model.named_buffers() if name.endswith(LEVELS)]
    every = [*model.parameters(), *coded]
    return sum(tensor.numel() for tensor in every), sum(
        int(tensor.count_nonzero()) for tensor in every
    )
