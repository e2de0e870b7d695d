"""Likely wrong answers to the exercises of lesson 6: words of the message, and of the first hint, that name the cause."""

DIGITS = "%tl_data digits --per-class {n}\n%tl_load glyphnet\n"
FULL = DIGITS.format(n=5) + "%tl_strategy full\n"
TUNE = "%tl_tune --trials 1 --epochs 1\n"
PAIR = "%tl_train --epochs 2\n{between}%tl_train --scratch --epochs 4\n"
PRICE = "%tl_cost --price 0.2eur/h\n"
OURS = DIGITS.format(n=2) + PRICE + TUNE
# from scratch so much more tuning and training that no busy moment of a machine turns the saving round
TUNED = (
    OURS
    + "%tl_train --epochs 2\n%tl_tune --scratch --trials 2 --epochs 10\n%tl_train --scratch --epochs 20\n"
)

PYTORCH = """
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tlnb import glyphnet
data, prepare = tl.data("digits", per_class=1), tl.load("glyphnet").transform
tl.train(epochs=1)
network = glyphnet.load("glyphnet").requires_grad_({free})
network.head = nn.Linear(network.head.in_features, 10)
inputs, labels = prepare(data.images["train"]), data.labels["train"]
with FlopCounterMode(display=False) as counter:
    loss = nn.functional.cross_entropy(network(inputs), labels)
    {backward}
counted = counter.get_total_flops() {divided}
"""
RIGHT = {"free": True, "backward": "loss.backward()", "divided": "/ len(inputs)"}

WRONG = {
    "6.1": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            DIGITS.format(n=5) + "%tl_train --epochs 1",
            "so far there are runs of head",
            "%tl_strategy full",
        ),
        (
            DIGITS.format(n=2) + "%tl_strategy full\n%tl_train --epochs 1",
            "digits --per-class 2, is not like that",
            "--per-class 5",
        ),
        (
            FULL + "%tl_train --epochs 1",
            "had a number of epochs set by hand",
            "instead of --epochs",
        ),
        (
            FULL + "%tl_train --batch-size 50 --augment none",
            "had no budget",
            "%tl_train --budget TIME; ",
        ),
        (
            FULL + "%tl_train --epochs 2 --budget 1h",
            "all 2 epochs fit into it",
            "a smaller budget",
        ),
    ],
    "6.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            DIGITS.format(n=1) + "%tl_train --epochs 1",
            "on digits --per-class 1, is not like that",
            "--per-class 2",
        ),
        (
            DIGITS.format(n=2) + "%tl_train --epochs 1\n%tl_compare --price 0.2eur/h",
            "it uses the list price",
            "%tl_compare --price is for one comparison",
        ),
        (
            DIGITS.format(n=2) + PRICE + "%tl_train --epochs 1\n" + TUNE,
            "was trained without",
            "train after that",
        ),
        (OURS + "%tl_train --epochs 1", "has none", "--scratch"),
        (
            OURS + PAIR.format(between=""),
            "uses the recipe's settings",
            "run %tl_tune --scratch before",
        ),
        (TUNED, "there is no variable answer", "below the table"),
        (TUNED + "answer = 3\n", "it is 3", "%tl_compare"),
        (
            TUNED + "answer = tl.compare().pays_off_after\n",
            "that is the number without tuning",
            "--tuning in",
        ),
    ],
    "6.3": [
        ("", "nothing was trained yet", "%tl_train"),
        (DIGITS.format(n=1) + "%tl_train --epochs 1", "there is none of that name", "counted ="),
        (
            DIGITS.format(n=1) + "%tl_train --epochs 1\ncounted = 'many'",
            "it is 'many'",
            "counter.get_total_flops()",
        ),
        (
            PYTORCH.format(**{**RIGHT, "backward": "pass"}),
            "the forward pass alone",
            "loss.backward() belongs inside",
        ),
        (PYTORCH.format(**{**RIGHT, "divided": ""}), "divide by the 10 images", "/ len(inputs)"),
        (
            PYTORCH.format(**{**RIGHT, "divided": "/ len(inputs) / 2"}),
            "counts a multiplication and its addition as one",
            "do not halve it",
        ),
        (
            PYTORCH.format(**{**RIGHT, "free": False}),
            "all but the output layer frozen",
            "nothing is frozen",
        ),
        (
            PYTORCH.format(**{**RIGHT, "divided": "/ 7"}),
            "is it the same network",
            "use glyphnet.load('glyphnet')",
        ),
    ],
}
