"""Likely wrong answers to the exercises of lesson 7, and words of the message that tells them apart."""

BUGGY = "%tl_data digits --per-class 10\n%tl_load glyphnet --std 0.00392,0.00392,0.00392\n"
HUNDRED = "%tl_data digits --per-class 10\n%tl_load glyphnet\n"
IN_PYTORCH = """
from torch import nn
from tlnb import glyphnet
trunk = glyphnet.load("glyphnet"){frozen}
trunk.head = nn.Identity()
{more}
network = nn.Sequential({parts})
"""

WRONG = {
    "7.1": [
        ("", "nothing was trained yet"),
        (
            "%tl_data digits --per-class 20\n%tl_load glyphnet\n%tl_train --epochs 1",
            "digits --per-class 20, is not like that",
        ),
        (HUNDRED + "%tl_train --epochs 1", "no run of this session has the mistake"),
        (BUGGY + "%tl_train --epochs 1", "divides by 0.00392"),
        (BUGGY + "%tl_train --epochs 1\n%tl_train --epochs 5 --lr 0.001", "pixels reach the network"),
        (BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet --mean 0,0,0\n%tl_train --epochs 1", "a mean of 0 and"),
        (BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet-glyphs\n%tl_train --epochs 1", "no repair"),
        (BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet\n%tl_train --epochs 1", "run 'head-2'"),
    ],
    "7.2": [
        ("", "nothing was trained yet"),
        (HUNDRED + "%tl_train --epochs 1", "moved only head"),
        (HUNDRED + "%tl_strategy full\n%tl_train --epochs 3", "BatchNorm layers moved"),
        (HUNDRED + "%tl_unfreeze layer4\n%tl_train --epochs 1 --lr 0.000001", "run 'custom'"),
        (
            HUNDRED + "%tl_unfreeze layer4\n%tl_train --epochs 5 --lr layer4=0.0001,head=0.01",
            "3 BatchNorm layers moved",
        ),
        (
            HUNDRED
            + "%tl_unfreeze layer4\n%tl_freeze *bn* *downsample.1\n%tl_train --epochs 10 --lr layer4=0.01,head=0.01",
            "its weights moved far",
        ),
        ("%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_train --epochs 1", "is not like that"),
    ],
    "7.3": [
        ("", "there is none of that name"),
        (IN_PYTORCH.format(frozen="", more="", parts="trunk"), "it gives (4, 160)"),
        (
            IN_PYTORCH.format(frozen="", more="", parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)"),
            "ask for a gradient",
        ),
        (
            IN_PYTORCH.format(frozen=".requires_grad_(False)", more="", parts="trunk, nn.Linear(160, 10)"),
            "none found",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False).eval()", more="", parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)"
            ),
            "calling eval() once is undone by the loop",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False)",
                more="trunk.stem.conv.weight.zero_()",
                parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)",
            ),
            "tensors are not in it",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False)", more="", parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)"
            )
            + "network.train = lambda mode=True: network.eval()\n"
            + "network.eval = lambda: nn.Module.train(network, False)\n",
            "train() must reach everything but the trunk",
        ),
    ],
}
