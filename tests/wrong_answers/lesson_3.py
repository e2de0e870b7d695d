"""Likely wrong answers to the exercises of lesson 3, and words of the message that tells them apart."""

TWENTY = "%tl_data digits --per-class 2\n%tl_load glyphnet\n"
FIFTY = "%tl_data digits --per-class 5\n%tl_load glyphnet\n"
ON_FEATURES = """
import torch
from torch import nn
from tlnb import glyphnet
data, prepare = tl.data("digits", per_class=5), tl.load("glyphnet").transform
network = {layers}
"""

WRONG = {
    "3.1": [
        ("", "nothing was trained yet"),
        (FIFTY + "%tl_train --epochs 1", "digits --per-class 5, is not like that"),
        (TWENTY + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 1 --augment none", "all of them keep it"),
        (TWENTY + "%tl_train --epochs 1 --augment none --no-cache", "all of them compute it in every epoch"),
        (TWENTY + "%tl_train --epochs 1\n%tl_train --epochs 1 --no-cache", "augment at random"),
        (
            TWENTY + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 2 --augment none --no-cache",
            "epochs differ too",
        ),
        (
            TWENTY + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 1 --augment none --no-cache --seed 1",
            "seed differ",
        ),
    ],
    "3.2": [
        ("", "nothing was trained yet"),
        (TWENTY + "%tl_train --epochs 1", "layer4.conv1, layer4.conv2, layer4.downsample.0 did not"),
        (TWENTY + "%tl_unfreeze layer4\n%tl_train --epochs 1", "layer4.bn1, layer4.bn2, layer4.downsample.1 moved"),
        (TWENTY + "%tl_unfreeze layer4\n%tl_freeze layer4.bn*\n%tl_train --epochs 1", "layer4.downsample.1 moved"),
        (TWENTY + "%tl_strategy full\n%tl_freeze *bn* *downsample.1\n%tl_train --epochs 1", "layer1.conv1"),
        (TWENTY + "%tl_unfreeze layer4.conv*\n%tl_train --epochs 1", "layer4.downsample.0 did not"),
        (
            TWENTY + "%tl_unfreeze layer4\n%tl_freeze layer4.bn* layer4.downsample.1 head\n%tl_train --epochs 1",
            "it stayed frozen",
        ),
        ("%tl_data digits --per-class 2\n%tl_load glyphnet-glyphs\n%tl_train --epochs 1", "trained glyphnet-glyphs"),
    ],
    "3.3": [
        ("", "no data yet"),
        (TWENTY, "2 of each are in use"),
        (FIFTY, "there is none of that name"),
        (ON_FEATURES.format(layers="nn.Linear(160, 10)"), "1 found"),
        (
            ON_FEATURES.format(layers="nn.Sequential(nn.Linear(160, 64), nn.Linear(64, 10))"),
            "in a row are one linear layer",
        ),
        (ON_FEATURES.format(layers="nn.Sequential(nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))"), "takes 3072"),
        (
            ON_FEATURES.format(layers="nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 10))"),
            "hardly trained",
        ),
    ],
}
