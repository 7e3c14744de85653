"""Group normalisation, as exact of a flat picture as of any other. B batch, F features, H W pixels."""

from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's, in the layout in which it is exact.

    Where channels lie together, as in decoded pixels and all that is convolved from them, torch takes the variance on
    a CPU as E[h^2] - E[h]^2, which cancels where it is small: a flat picture's logit was off by 2e-3, and otherwise on
    another processor. Of contiguous planes (since pytorch/pytorch#54293), and on CUDA, it is exact.
    """

    def forward(self, h_BFHW: Tensor) -> Tensor:
        return super().forward(h_BFHW.contiguous())
