"""Likely wrong answers to the exercises of lesson 5: words of the message, and of the first hint, that name the cause."""

TEN = "%tl_data symbols --classes 10 --per-class {n}\n%tl_load glyphnet\n"
RUN = "%tl_strategy {strategy}\n%tl_train --epochs {epochs}{more}\n"

PYTORCH = """
import torch
from torch import nn
from tlnb import glyphnet
data, prepare = tl.data("symbols", classes={classes}, per_class=2), tl.load("glyphnet").transform
network = glyphnet.load("glyphnet").requires_grad_({others}).eval()
network.head = nn.Linear(network.head.in_features, 10)
stages = nn.ModuleList([network.layer3, network.layer4]).requires_grad_({free})
optimizer = torch.optim.AdamW({groups})
for _ in range(2):
    {mode}
    optimizer.zero_grad()
    nn.functional.cross_entropy(network(prepare(data.images["train"])), data.labels["train"]).backward()
    optimizer.step()
"""
GROUPS = "[{{'params': stages.parameters(), 'lr': {inner}}}, {{'params': network.head.parameters(), 'lr': {head}}}]"
RIGHT = {
    "classes": 10,
    "others": False,
    "free": True,
    "groups": GROUPS.format(inner=0.001, head=0.01),
    "mode": "stages.train()",
}


def _run(strategy: str, epochs: int = 1, more: str = "") -> str:
    return RUN.format(strategy=strategy, epochs=epochs, more=more)


WRONG = {
    "5.1": [
        ("", "nothing was trained yet", "%tl_train"),
        (TEN.format(n=1) + _run("head"), "so far there are runs of head", "%tl_strategy full"),
        (
            TEN.format(n=1) + _run("partial"),
            "so far there are runs of partial",
            "full, then %tl_train",
        ),
        (
            "%tl_data symbols --classes 5 --per-class 1\n%tl_load glyphnet\n" + _run("full"),
            "on symbols --per-class 1 --classes 5, is not like that",
            "--classes 10",
        ),
        (
            TEN.format(n=1)
            + _run("head")
            + "%tl_data symbols --classes 10 --per-class 2\n"
            + _run("full"),
            "none on the images of any run of full",
            "before you change the data",
        ),
        (
            TEN.format(n=1) + _run("head", 5) + _run("full", 2),
            "they overlap",
            "2 epochs are too few",
        ),
        (
            TEN.format(n=1) + _run("head", 20) + _run("full", 20),
            "they overlap",
            "more images per class",
        ),
        (
            TEN.format(n=5) + _run("head", 20) + _run("full", 1, " --lr 10"),
            "head is better",
            "a learning rate of 10 is far too large",
        ),
    ],
    "5.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            TEN.format(n=1) + _run("full"),
            "on symbols --per-class 1 --classes 10, is not like that",
            "--per-class 20",
        ),
        (
            TEN.format(n=20) + _run("partial"),
            "so far there are runs of partial",
            "%tl_strategy full",
        ),
        (TEN.format(n=20) + _run("full"), "it had 1, its recipe is 20", "without --epochs"),
        (
            TEN.format(n=20) + _run("full", 20, " --batch-size 160"),
            "none so far",
            "%tl_strategy partial",
        ),
        (
            TEN.format(n=20) + _run("full", 20, " --batch-size 160") + _run("partial", 20),
            "took 2",
            "every augmented view",
        ),
        (
            TEN.format(n=20)
            + _run("full", 20, " --batch-size 160")
            + _run("partial", 1, " --augment none"),
            "'partial' is ",
            "one epoch is too few",
        ),
        (
            TEN.format(n=20) + _run("full", 20) + _run("head", 20, " --augment none"),
            "points behind",
            "a new output layer alone is not enough",
        ),
    ],
    "5.3": [
        ("", "no data yet", "%tl_data"),
        ("%tl_data digits --per-class 1", "the data are digits", "symbols"),
        ("%tl_data symbols --classes 10 --per-class 1", "network is a NoneType", "network ="),
        (PYTORCH.format(**{**RIGHT, "classes": 5}), "gives 10 scores for 5 classes", "ten letters"),
        (
            PYTORCH.format(**RIGHT) + "network = nn.Linear(3, 10)",
            "its layers are different",
            "then replace only its output layer",
        ),
        (
            PYTORCH.format(**{**RIGHT, "mode": "network.train()"}),
            "running statistics did",
            "puts frozen BatchNorm into train mode",
        ),
        (
            PYTORCH.format(**{**RIGHT, "others": True, "groups": "network.parameters(), lr=0.001"}),
            "weights did, stem",
            "requires_grad_(False)",
        ),
        (
            PYTORCH.format(**{**RIGHT, "free": False}),
            "no weight of layer3 and layer4 moved",
            "requires_grad_(True)",
        ),
        (
            PYTORCH.format(**{**RIGHT, "groups": "stages.parameters(), lr=0.001"}),
            "it has none of the output layer",
            "network.head.parameters() belongs",
        ),
        (
            PYTORCH.format(**{**RIGHT, "groups": GROUPS.format(inner=0.001, head=0.001)}),
            "it has 0.001, the stages 0.001",
            "'lr': 0.01",
        ),
        (PYTORCH.format(**RIGHT), "it gets ", "more passes"),
    ],
}
