"""Likely wrong answers to the exercises of lesson 9, and words of the message that tells them apart."""

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
        ("", "none is"),
        ("tl.load('glyphnet')", "of which no accuracy"),
        ("tl.load('resnet18', weights='none')", "has 11.7 million"),
        ("tl.load('densenet121', weights='none')", "has 8.0 million"),
        ("tl.load('shufflenet_v2_x0_5', weights='none')", "others are better than shufflenet_v2_x0_5"),
        ("tl.load('mobilenet_v3_large', weights='none')", "others are better than mobilenet_v3_large"),
        ("tl.load('squeezenet1_0', weights='none')", "takes 1.6 GFLOP"),
    ],
    "9.2": [
        ("", "nothing was trained yet"),
        (DIGITS + "tl.forecast(epochs=1)", "nothing was trained yet"),
        (DIGITS + "tl.train(epochs=1)", "no forecast was made"),
        (DIGITS + "tl.train(epochs=1)\ntl.forecast(epochs=1)", "or afterwards"),
        (DIGITS + "tl.forecast(epochs=2)\ntl.train(epochs=1)", "other data, plans or options"),
        (DIGITS + "tl.forecast(epochs=1)\ntl.strategy('full')\ntl.train(epochs=1)", "other data, plans or options"),
        (DIGITS + "tl.forecast(epochs=1)\ntl.train(epochs=1)", "so far for head"),
    ],
    "9.3": [
        ("", "none is"),
        ("tl.load('glyphnet')", "of embedded"),
        (OWN.format(norm="nn.Identity()", train=""), "2 convolutions and 0 BatchNorm"),
        (OWN.format(norm="nn.BatchNorm2d(8)", train=""), "nothing was trained yet"),
        (OWN.format(norm="nn.BatchNorm2d(8)", train="tl.strategy('full')\ntl.train(epochs=1)"), "runs of full"),
        (DIGITS + "tl.train(epochs=1)\n" + OWN.format(norm="nn.BatchNorm2d(8)", train=""), "is not like that"),
    ],
}
