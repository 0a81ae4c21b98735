"""Group and layer norms with weights that are frozen, and the gate after a feed-forward layer's
first product: what autograd would do, for functions that do it themselves."""

import torch

Norm = torch.nn.GroupNorm | torch.nn.LayerNorm


def normalise(norm: Norm, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The norm of x, B x C x H x W or N x C; the mean and 1 / deviation of what is normed."""
    if isinstance(norm, torch.nn.GroupNorm):
        return torch.native_group_norm(x, norm.weight, norm.bias, *_sizes(norm, x), norm.eps)
    return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def normalise_back(
    norm: Norm, dy: torch.Tensor, x: torch.Tensor, *moments: torch.Tensor
) -> torch.Tensor:
    """The gradient of x."""
    wanted = [True, False, False]
    if isinstance(norm, torch.nn.GroupNorm):
        back = torch.ops.aten.native_group_norm_backward
        return back(dy, x, *moments, norm.weight, *_sizes(norm, x), wanted)[0]
    back = torch.ops.aten.native_layer_norm_backward
    return back(dy, x, norm.normalized_shape, *moments, norm.weight, norm.bias, wanted)[0]


def gate_back(dy: torch.Tensor, raised: torch.Tensor, opened: torch.Tensor) -> torch.Tensor:
    """The gradient of u and g side by side from that of u gelu(g).

    Args:
        dy: N x F. raised: u and g, N x 2 F. opened: gelu(g).
    """
    up, gate = raised.chunk(2, -1)
    draised = torch.empty_like(raised)
    dup, dgate = draised.chunk(2, -1)
    torch.mul(dy, opened, out=dup)
    torch.mul(dy, up, out=dgate)
    torch.ops.aten.gelu_backward.grad_input(dgate, gate, grad_input=dgate)  # in place
    return draised


def _sizes(norm: torch.nn.GroupNorm, x: torch.Tensor) -> tuple[int, int, int, int]:
    batch, channels, height, width = x.shape
    return batch, channels, height * width, norm.num_groups
