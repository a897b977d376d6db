"""Weights in the layout that the processor's matrix product wants, laid out once instead of with every pass.

Measured on one core in bfloat16, 896 x 4864: 1 row 18 against 55 GFLOP/s, 16 rows 62 against 108, 64 rows 70
against 170, with the very same numbers; in float32 about twice, rounded otherwise. It costs a second copy of
the linear layers' weights, for the plain ones stay: a trainer shares them, and packed ones have no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KINDS = (torch.bfloat16, torch.float32)


class PackedLinear(nn.Linear):
    """A linear layer that computes with a packed copy of its weight, and plainly where it has none."""

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(N, I) to (N, O), with any dimensions before them, as `nn.Linear`."""
        if self.packed is None:
            return super().forward(input)
        product: Any = torch.ops.mkldnn._linear_pointwise
        result: Tensor = product(input, self.packed, self.bias, "none", [], "")
        return result


def can_pack(weight: Tensor) -> bool:
    """Whether this processor and this build of torch have the packed product for such a weight (O, I)."""
    ops: Any = torch.ops.mkldnn
    here: Any = torch.backends.mkldnn
    if weight.device.type != "cpu" or weight.dtype not in KINDS or not here.is_available():
        return False
    if not hasattr(ops, "_reorder_linear_weight"):
        return False
    return weight.dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported())


def pack(model: nn.Module) -> None:
    """Give the plain linear layers of a model packed weights, where that can be done."""
    layers = [part for part in model.modules() if type(part) is nn.Linear and can_pack(part.weight)]
    packed: dict[int, Tensor] = {}
    reorder: Any = torch.ops.mkldnn._reorder_linear_weight if layers else None
    for layer in layers:
        key = id(layer.weight)
        if key not in packed:
            packed[key] = reorder(layer.weight.detach(), None)
        layer.__class__ = PackedLinear
        layer.packed = packed[key]
