"""Likely wrong answers to the exercises of lesson 9: words of the message, and of the first hint, that name the cause."""

DIGITS = "tl.data('digits', per_class=1)\ntl.load('glyphnet')\n"
OWN = """
from torch import nn
mine = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1), {norm}, nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(8, 5),
)
tl.data("digits", per_class=1)
tl.load(mine, size=32, called="mine")
{train}
"""

WRONG = {
    "9.1": [
        ("", "no model is loaded", "%tl_load NAME"),
        ("tl.load('glyphnet')", "whose ImageNet accuracy", "%tl_models --sort accurate lists"),
        ("tl.load('resnet18', weights='none')", "has 11.7 million", "--sort small"),
        ("tl.load('densenet121', weights='none')", "has 8.0 million", "the column parameters"),
        (
            "tl.load('shufflenet_v2_x0_5', weights='none')",
            "others are better than shufflenet_v2_x0_5",
            "go down the list",
        ),
        (
            "tl.load('mobilenet_v3_large', weights='none')",
            "others are better than mobilenet_v3_large",
            "until a network meets both limits",
        ),
        ("tl.load('squeezenet1_0', weights='none')", "takes 1.6 GFLOP", "--sort fast"),
    ],
    "9.2": [
        ("", "nothing was trained yet", "%tl_forecast, then %tl_train"),
        (
            DIGITS + "tl.forecast(epochs=1)",
            "nothing was trained yet",
            "with the options of the forecast",
        ),
        (DIGITS + "tl.train(epochs=1)", "no forecast was made", "%tl_forecast first"),
        (
            DIGITS + "tl.train(epochs=1)\ntl.forecast(epochs=1)",
            "its forecast was made after it",
            "too late",
        ),
        (
            DIGITS + "tl.forecast(epochs=2)\ntl.train(epochs=1)",
            "with epochs 2, the run with 1",
            "the same --epochs",
        ),
        (
            DIGITS + "tl.forecast(epochs=1)\ntl.strategy('full')\ntl.train(epochs=1)",
            "for the strategy head",
            "%tl_strategy comes first",
        ),
        (
            DIGITS + "tl.forecast(epochs=1)\ntl.data('digits', per_class=2)\ntl.train(epochs=1)",
            "for different data",
            "%tl_data comes first",
        ),
        (
            DIGITS + "tl.forecast(epochs=1)\ntl.load('glyphnet-few')\ntl.train(epochs=1)",
            "for another network or other trained layers",
            "loading, editing and freezing comes first",
        ),
        (
            DIGITS + "tl.forecast(epochs=1)\ntl.train(epochs=1)",
            "so far for head",
            "%tl_strategy full",
        ),
        (
            DIGITS
            + "tl.forecast(epochs=1)\ntl.train(epochs=1)\ntl.strategy('full')\ntl.train(epochs=1)",
            "so far for head",
            "run 'full' does not count: the forecast was made for the strategy head",
        ),
        (
            DIGITS + "tl.forecast(epochs=1)\ntl.train(epochs=1)\ntl.strategy('full')\n"
            "tl.train(epochs=1)\ntl.forecast(epochs=1)",
            "so far for head",
            "its forecast was made after it",
        ),
    ],
    "9.3": [
        ("", "no model is loaded", "%tl_load mine"),
        ("tl.load('glyphnet')", "of embedded", "a subclass of nn.Module"),
        (
            OWN.format(norm="nn.Identity()", train=""),
            "2 convolutions and 0 BatchNorm",
            "nn.BatchNorm2d",
        ),
        (OWN.format(norm="nn.BatchNorm2d(8)", train=""), "nothing was trained yet", "%tl_train"),
        (
            OWN.format(norm="nn.BatchNorm2d(8)", train="tl.strategy('full')\ntl.train(epochs=1)"),
            "runs of full",
            "%tl_strategy head",
        ),
        (
            DIGITS + "tl.train(epochs=1)\n" + OWN.format(norm="nn.BatchNorm2d(8)", train=""),
            "is not like that",
            "now that mine is loaded",
        ),
    ],
}
