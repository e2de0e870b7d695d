"""Likely wrong answers to the exercises of lesson 3: words of the message, and of the first hint, that name the cause."""

TWENTY = "%tl_data digits --per-class 2\n%tl_load glyphnet\n"
FIFTY = "%tl_data digits --per-class 5\n%tl_load glyphnet\n"
ON_FEATURES = """
import torch
from torch import nn
from tlnb import glyphnet
data, prepare = tl.data("digits", per_class=5), tl.load("glyphnet").transform
torch.manual_seed(0)  # some starts get a quarter right before any training
network = {layers}
"""

WRONG = {
    "3.1": [
        ("", "nothing was trained yet", "%tl_train"),
        (FIFTY + "%tl_train --epochs 1", "digits --per-class 5, is not like that", "--per-class 2"),
        (
            TWENTY + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 1 --augment none",
            "all of them cache it",
            "--no-cache is the option",
        ),
        (
            TWENTY + "%tl_train --epochs 1 --augment none --no-cache",
            "all of them compute it in every epoch",
            "unless --no-cache",
        ),
        (
            TWENTY + "%tl_train --epochs 1\n%tl_train --epochs 1 --no-cache",
            "augment at random",
            "--augment none",
        ),
        (
            TWENTY
            + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 2 --augment none --no-cache",
            "epochs differ too",
            "the same --epochs",
        ),
        (
            TWENTY
            + "%tl_train --epochs 1 --augment none\n%tl_train --epochs 1 --augment none --no-cache --seed 1",
            "seed differ",
            "the same --seed",
        ),
        (
            TWENTY + "%tl_train --epochs 1 --augment none\n%tl_data digits --per-class 2 --seed 1\n"
            "%tl_train --epochs 1 --augment none --no-cache",
            "different draws",
            "no %tl_data between",
        ),
        (
            TWENTY + "%tl_train --epochs 1 --augment none\n%tl_load glyphnet-few\n"
            "%tl_train --epochs 1 --augment none --no-cache",
            "different networks",
            "no %tl_load",
        ),
    ],
    "3.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            TWENTY + "%tl_train --epochs 1",
            "layer4.conv1, layer4.conv2, layer4.downsample.0 did not",
            "%tl_unfreeze layer4",
        ),
        (
            TWENTY + "%tl_unfreeze layer4\n%tl_train --epochs 1",
            "layer4.bn1, layer4.bn2, layer4.downsample.1 moved",
            "%tl_freeze layer4.bn*",
        ),
        (
            TWENTY + "%tl_unfreeze layer4\n%tl_freeze layer4.bn*\n%tl_train --epochs 1",
            "layer4.downsample.1 moved",
            "different kind of name: layer4.downsample.1",
        ),
        (
            TWENTY + "%tl_strategy full\n%tl_freeze *bn* *downsample.1\n%tl_train --epochs 1",
            "layer1.conv1",
            "%tl_freeze first",
        ),
        (
            TWENTY + "%tl_unfreeze layer4.conv*\n%tl_train --epochs 1",
            "layer4.downsample.0 did not",
            "layer4.downsample.0 is a convolution too",
        ),
        (
            TWENTY
            + "%tl_unfreeze layer4\n%tl_freeze layer4.bn* layer4.downsample.1 head\n%tl_train --epochs 1",
            "it stayed frozen",
            "%tl_unfreeze head",
        ),
        (
            TWENTY + "%tl_strategy scratch\n%tl_train --epochs 1",
            "start random",
            "any strategy but scratch",
        ),
        (
            TWENTY + "%tl_strategy full\n%tl_train --epochs 1",
            "stem.bn, layer1.bn1",
            "%tl_freeze first",
        ),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet-glyphs\n%tl_train --epochs 1",
            "trained glyphnet-glyphs",
            "%tl_load glyphnet",
        ),
    ],
    "3.3": [
        ("", "no data yet", "%tl_data"),
        (TWENTY, "2 of each are in use", "--per-class 5"),
        (FIFTY, "there is none of that name", "network ="),
        (ON_FEATURES.format(layers="nn.Linear(160, 10)"), "1 found", "one from the 160 features"),
        (
            ON_FEATURES.format(layers="nn.Sequential(nn.Linear(160, 64), nn.Linear(64, 10))"),
            "in a row are one linear layer",
            "nn.ReLU() between",
        ),
        (
            ON_FEATURES.format(
                layers="nn.Sequential(nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))"
            ),
            "takes 3072",
            "features, not pixels",
        ),
        (
            ON_FEATURES.format(
                layers="nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 12))"
            ),
            "gives 12",
            "one score for each of the ten digits",
        ),
        (
            ON_FEATURES.format(
                layers="nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 10))"
            ),
            "hardly trained",
            "60 passes",
        ),
    ],
}
