"""Likely wrong answers to the exercises of lesson 4: words of the message, and of the first hint, that name the cause."""

TWENTY = "%tl_data textures --per-class 20\n"
FIVE = "%tl_data textures --per-class 5\n%tl_load glyphnet-glyphs\n"
FAST = "%tl_train --epochs 1 --augment none\n"
CUT = "%tl_remove layer4\n"

TRUNCATED = """
import torch
from torch import nn
from tlnb import glyphnet
data, prepare = tl.data("textures", per_class=20), tl.load("glyphnet").transform
torch.manual_seed(0)  # one start in a hundred gets a sixth right before any training
whole = glyphnet.load({source!r})
stages = nn.Sequential({stages}){mode}
truncated = nn.Sequential(stages, {end})
optimizer = torch.optim.SGD(truncated.parameters(), lr={lr})
nn.functional.cross_entropy(truncated(prepare(data.images["train"])), data.labels["train"]).backward()
optimizer.step()
"""
RIGHT = {
    "source": "glyphnet",
    "stages": "whole.stem, whole.layer1, whole.layer2, whole.layer3",
    "lr": 0.01,
    "mode": ".requires_grad_(False).eval()",
    "end": "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 12)",
}


def truncated(**other: object) -> str:
    return TRUNCATED.format(**{**RIGHT, **other})


WRONG = {
    "4.1": [
        ("", "no data yet", "%tl_data"),
        ("%tl_data digits --per-class 20", "the data are digits", "textures"),
        ("%tl_data textures --per-class 5", "the data have 5 of each", "--per-class 20"),
        (TWENTY + "%tl_load glyphnet", "glyphnet is loaded", "%tl_load glyphnet-early"),
        (TWENTY + "%tl_load glyphnet-early\n%tl_remove layer4", "with edits", "undoes edits"),
        (TWENTY + "%tl_load glyphnet-early", "there is no variable best", "best is the name"),
        (TWENTY + "%tl_load glyphnet-early\nbest = 'head'", "it is 'head'", "of one of them"),
        (TWENTY + "%tl_load glyphnet-early\nbest = 'layer4'", "look earlier", "before layer4"),
        (TWENTY + "%tl_load glyphnet-early\nbest = 'stem'", "look later", "after stem"),
    ],
    "4.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (TWENTY + "%tl_load glyphnet-glyphs\n" + FAST, "is not like that", "--per-class 5"),
        (
            "%tl_data textures --per-class 5\n%tl_load glyphnet\n" + FAST,
            "runs of glyphnet",
            "%tl_load glyphnet-glyphs",
        ),
        (
            FIVE + "%tl_unfreeze layer4\n" + FAST,
            "7 layers moved",
            "freezes all but the output layer",
        ),
        (FIVE + FAST, "no run has a stage removed", "%tl_remove layer4"),
        (FIVE + CUT + FAST, "all runs have stages removed", "undoes edits"),
        (FIVE + FAST + "%tl_remove layer1\n" + FAST, "the whole 560,196", "most of the parameters"),
        (FIVE + FAST + CUT + FAST, "1 draws have both", "another draw"),
        (
            "for seed in (0, 1, 2):\n    tl.data('textures', per_class=5, seed=seed)\n    tl.load('glyphnet-glyphs')\n"
            "    tl.train(epochs=1, augment='none')\n    for stage in ('layer4', 'layer3', 'layer2', 'layer1'):\n"
            "        tl.remove(stage)\n    tl.train(epochs=1, augment='none')",
            "points behind",
            "too much was cut",
        ),
    ],
    "4.3": [
        ("", "no data yet", "%tl_data"),
        ("%tl_data textures --per-class 5", "the data have 5 of each", "--per-class 20"),
        (TWENTY, "there is none of that name", "truncated ="),
        (
            truncated(
                stages="whole.stem, whole.layer1, whole.layer2, whole.layer3, whole.layer4",
                end="nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 12)",
            ),
            "a convolution of 160 channels is",
            "end before it",
        ),
        (truncated(source="glyphnet-glyphs"), "the far source", "glyphnet.load('glyphnet')"),
        (truncated(mode=""), "stem.conv.weight first", "requires_grad_(False)"),
        (
            truncated(mode=".requires_grad_(False).train()"),
            "running statistics, which move in train mode",
            "eval() before the first image",
        ),
        (
            truncated(end="nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 20)"),
            "it gives (384, 20)",
            "nn.Linear(96, 12)",
        ),
        (
            truncated(end="nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 12)", lr=1e-9),
            "learned nothing",
            "more steps, or a learning rate",
        ),
    ],
}
