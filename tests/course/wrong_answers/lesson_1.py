"""Likely wrong answers to the exercises of lesson 1: words of the message, and of the first hint, that name the cause."""

PYTORCH = """
import torch
from torch import nn
from tlnb import glyphnet
data, prepare = tl.data("digits", per_class=1), tl.load("glyphnet").transform
drifted = glyphnet.load("glyphnet")
{freeze}
drifted.head = nn.Linear(drifted.head.in_features, 10)
optimizer = torch.optim.AdamW({trained}, lr=0.01)
for _ in range(2):
    drifted.{mode}()
    optimizer.zero_grad()
    nn.functional.cross_entropy(drifted(prepare(data.images["train"])), data.labels["train"]).backward()
    optimizer.step()
{end}
"""
RIGHT = {
    "freeze": "drifted.requires_grad_(False)",
    "trained": "drifted.head.parameters()",
    "mode": "train",
    "end": "",
}

WRONG = {
    "1.1": [
        ("", "nothing was trained yet", "then %tl_train"),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_train --epochs 1",
            "digits --per-class 2, is not like that",
            "--per-class 1",
        ),
        (
            "%tl_data digits --per-class 1\n%tl_load glyphnet\n%tl_strategy full\n%tl_train --epochs 1",
            "there are runs of full",
            "%tl_strategy head",
        ),
        (
            "%tl_data digits --per-class 1\n%tl_load glyphnet\n%tl_train --epochs 1",
            "1 so far",
            "draws different images",
        ),
        (
            "%tl_data digits --per-class 1\n%tl_load glyphnet\n"
            "%tl_train --epochs 1\n%tl_train --epochs 1 --seed 1\n%tl_train --epochs 1 --seed 2",
            "the seed of %tl_train changes the training, not the images",
            "%tl_data digits --per-class 1 --seed 1",
        ),
        (
            "tl.load('glyphnet')\nfor seed in (0, 1, 2):\n    tl.data('digits', per_class=1, seed=seed)\n    tl.train(epochs=1)",
            "no baseline for the data of seed 0, 1, 2",
            "--scratch",
        ),
    ],
    "1.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_train --epochs 1",
            "so far there are runs of head",
            "%tl_strategy full",
        ),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_strategy partial\n%tl_train --epochs 1",
            "runs of partial",
            "%tl_strategy full, then",
        ),
        (
            "%tl_data digits --per-class 1\n%tl_load glyphnet\n%tl_strategy full\n%tl_train --epochs 1",
            "is not like that",
            "--per-class 2",
        ),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_strategy full\n%tl_train --epochs 1",
            "none on these twenty",
            "the output layer alone",
        ),
        (
            "%tl_data digits --per-class 2 --seed 1\n%tl_load glyphnet\n%tl_train --epochs 1\n"
            "%tl_data digits --per-class 2\n%tl_strategy full\n%tl_train --epochs 1",
            "none on these twenty",
            "on the same twenty images",
        ),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_strategy scratch\n%tl_train --epochs 1",
            "runs of scratch",
            "full, then %tl_train",
        ),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_train --epochs 1\n"
            "%tl_strategy full\n%tl_train --epochs 1",
            "nobody has looked at them side by side",
            "with their intervals",
        ),
    ],
    "1.3": [
        ("", "there is none of that name", "drifted ="),
        ("drifted = 3", "it is a int", "glyphnet.load"),
        (
            "from tlnb import glyphnet\ndrifted = glyphnet.load('glyphnet')",
            "its output layer gives ",
            "nn.Linear(drifted.head.in_features, 10)",
        ),
        (
            "from torch import nn\ndrifted = nn.Linear(3, 10)",
            "its layers are different",
            "drifted = glyphnet.load",
        ),
        (
            PYTORCH.format(**{**RIGHT, "freeze": "", "trained": "drifted.parameters()"}),
            "did, stem",
            "requires_grad_(False)",
        ),
        (
            PYTORCH.format(**{**RIGHT, "mode": "eval"}),
            "the network stayed in eval mode",
            "in eval mode BatchNorm updates no averages",
        ),
        (PYTORCH.format(**RIGHT), "there is no variable answer", "which layers"),
        (
            PYTORCH.format(**{**RIGHT, "end": "answer = 'head'"}),
            "the layer 'head' is as it was",
            "running statistics",
        ),
        (
            PYTORCH.format(**{**RIGHT, "end": "answer = 'layer1'"}),
            "'layer1' is a stage, in which 2 layers changed",
            "running statistics",
        ),
        (
            PYTORCH.format(**{**RIGHT, "end": "answer = 'BatchNorm'"}),
            "is the kind of the layers that changed",
            "running statistics",
        ),
        (
            PYTORCH.format(**{**RIGHT, "end": "answer = 'stem.bn.running_mean'"}),
            "is a tensor of a layer: leave out its last part",
            "running statistics",
        ),
        (
            PYTORCH.format(**{**RIGHT, "end": "answer = 'layer9'"}),
            "no layer has this name",
            "running statistics",
        ),
    ],
}
