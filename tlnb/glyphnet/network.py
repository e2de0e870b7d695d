"""The embedded network: a small residual network for 32×32 pictures."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

WIDTHS = (24, 48, 96, 160)
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
SIZE = 32


class GlyphNet(nn.Module):
    """A stem, four residual stages of one block each, average pooling, and the output layer.

    Takes float pictures `(N, 3, 32, 32)`, normalised with `MEAN` and `STD`, and returns logits
    `(N, classes)`. Any edge of at least 16 pixels works. The trunk has 558,264 parameters and costs
    17.0 MFLOP per picture (forward; a multiply-add counts as two).
    """

    def __init__(self, classes: int, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
                bn=nn.BatchNorm2d(first),
                relu=nn.ReLU(inplace=True),
            )
        )
        self.layer1 = _stage(first, widths[0], stride=1)  # (N, 24, 16, 16)
        self.layer2 = _stage(widths[0], widths[1], stride=2)  # (N, 48, 8, 8)
        self.layer3 = _stage(widths[1], widths[2], stride=2)  # (N, 96, 4, 4)
        self.layer4 = _stage(widths[2], widths[3], stride=2)  # (N, 160, 2, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(widths[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))
        logits: Tensor = self.head(self.flatten(self.pool(maps)))
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = None
    if stride != 1 or inputs != outputs:
        fitted = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        shortcut = nn.Sequential(fitted, nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)
