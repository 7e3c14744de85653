"""The convolution that cuts a picture into patches. B batch, C channels, E features, p side of a patch, h w patches"""

from torch import Tensor, nn

from radet.onednn import linear


class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel. On a GPU it is one matrix product of all patches of all pictures.

    torch's convolution in bf16 without cuDNN (radet.tensors.steady_arithmetic) takes one picture after the other: a
    sixth of a score by CLIP ViT-B/16 on an H200.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        down, across = conv.kernel_size
        super().__init__(conv.in_channels, conv.out_channels, (down, across), stride=(down, across), device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if x_BCHW.device.type != "cuda":
            return super().forward(x_BCHW)
        return self.as_product(x_BCHW)

    def as_product(self, x_BCHW: Tensor) -> Tensor:
        """The same on any device."""
        down, across = self.kernel_size
        rows_BChWp = x_BCHW.unfold(2, down, down)
        patches_BChwpp = rows_BChWp.unfold(3, across, across)
        height, width = patches_BChwpp.shape[2:4]
        product_BnE = linear(
            patches_BChwpp.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias
        )
        return product_BnE.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-untyped-call, no-any-return]


def replace_patch_convs(tower: nn.Module) -> None:
    """Its convolutions of patches become PatchConv, with the same parameters under the same names."""
    for module in tower.modules():
        for name, child in module.named_children():
            if (
                type(child) is nn.Conv2d
                and child.kernel_size == child.stride != (1, 1)
                and (child.padding, child.dilation, child.groups) == ((0, 0), (1, 1), 1)
            ):
                setattr(module, name, PatchConv(child))
