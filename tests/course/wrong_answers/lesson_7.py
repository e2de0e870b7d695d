"""Likely wrong answers to the exercises of lesson 7: words of the message, and of the first hint, that name the cause."""

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
        ("", "nothing was trained yet", "four lines"),
        (
            "%tl_data digits --per-class 20\n%tl_load glyphnet\n%tl_train --epochs 1",
            "digits --per-class 20, is not like that",
            "--per-class 10",
        ),
        (
            HUNDRED + "%tl_train --epochs 1",
            "no run of this session has the mistake",
            "see the damage first",
        ),
        (BUGGY + "%tl_train --epochs 1", "run 'head' gets ", "those of lesson 1"),
        (
            BUGGY + "%tl_train --epochs 1\n%tl_train --epochs 5 --lr 0.001",
            "the mistake is still in it",
            "neither epochs nor learning rate",
        ),
        (
            BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet --mean 0,0,0\n%tl_train --epochs 1",
            "run 'head-2' gets ",
            "learning rate can fix it",
        ),
        (
            BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet-glyphs\n%tl_train --epochs 1",
            "does not fix the bug",
            "%tl_load glyphnet",
        ),
        (
            BUGGY + "%tl_train --epochs 1\n%tl_load glyphnet\n%tl_train --epochs 1",
            "run 'head-2'",
            "one epoch is too few",
        ),
    ],
    "7.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_train --epochs 1",
            "is not like that",
            "--per-class 10",
        ),
        (
            HUNDRED + "%tl_train --epochs 1",
            "12 convolutions did not, stem.conv first",
            "frozen layers learn nothing",
        ),
        (
            HUNDRED + "%tl_unfreeze layer4\n%tl_train --epochs 1",
            "9 convolutions did not, stem.conv first",
            "trains them all",
        ),
        (
            HUNDRED + "%tl_strategy full\n%tl_train --epochs 3 --lr 0.0001",
            "BatchNorm layers moved",
            "freeze the BatchNorm layers",
        ),
        (
            HUNDRED
            + "%tl_strategy full\n%tl_freeze *bn* *downsample.1\n%tl_train --epochs 8 --lr 0.001",
            "its weights moved far",
            "a small learning rate",
        ),
        (
            HUNDRED
            + "%tl_strategy full\n%tl_freeze *bn* *downsample.1\n%tl_train --epochs 2 --lr 0.1",
            "run 'custom'",
            "a learning rate of 0.1 is far too large",
        ),
    ],
    "7.3": [
        ("", "there is none of that name", "network ="),
        (
            IN_PYTORCH.format(frozen="", more="", parts="trunk"),
            "it gives (4, 160)",
            "nn.Linear(160, 10)",
        ),
        (
            IN_PYTORCH.format(
                frozen="", more="", parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)"
            ),
            "require a gradient",
            "requires_grad_(False)",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False)", more="", parts="trunk, nn.Linear(160, 10)"
            ),
            "none found",
            "nn.Dropout",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False).eval()",
                more="",
                parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)",
            ),
            "the loop undoes a single eval()",
            "a wrapper whose train()",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False)",
                more="trunk.stem.conv.weight.zero_()",
                parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)",
            ),
            "tensors are not in it",
            "no weight changed",
        ),
        (
            IN_PYTORCH.format(
                frozen=".requires_grad_(False)",
                more="",
                parts="trunk, nn.Dropout(0.5), nn.Linear(160, 10)",
            )
            + "network.train = lambda mode=True: network.eval()\n"
            + "network.eval = lambda: nn.Module.train(network, False)\n",
            "train() must reach everything but the trunk",
            "not of the whole network",
        ),
    ],
}
