"""Likely wrong answers to the exercises of lesson 2, and words of the message that tells them apart."""

FIVE = "%tl_data digits --per-class 5\n%tl_load glyphnet\n"
FAST = "%tl_train --epochs 1 --augment none"
TWO = "nn.Sequential(nn.Linear(in_features, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, classes))"

ONE = """
for seed in {seeds}:
    tl.data("digits", per_class=1, seed=seed)
    for source in {sources}:
        tl.load(source)
        tl.train(epochs=1, augment="none")
"""

HOOK = """
import torch
from tlnb import glyphnet
data, prepare = tl.data("digits", per_class=5), tl.load("glyphnet").transform
network, caught = glyphnet.load("glyphnet"), []
{mode}
network.{layer}.register_forward_hook(lambda module, inputs, output: caught.append(output.detach()))
for split in ("train", "test"):
    network({inputs})
train_features, test_features = caught
{end}
"""
RIGHT = {"mode": "", "layer": "flatten", "inputs": "prepare(data.images[split])", "end": ""}

WRONG = {
    "2.1": [
        ("", "nothing was trained yet"),
        ("%tl_data digits --per-class 2\n%tl_load glyphnet\n" + FAST, "is not like that"),
        (FIVE + FAST, "no run so far replaced a layer"),
        (FIVE + "%tl_replace head nn.Linear(in_features, classes)\n" + FAST, "has 1 there"),
        (
            FIVE + "%tl_replace head nn.Sequential(nn.Linear(in_features, 8), nn.Linear(8, classes))\n" + FAST,
            "between them lies nothing",
        ),
        (
            FIVE
            + "%tl_replace head nn.Sequential(nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, classes))\n"
            + FAST,
            "between them lies ReLU",
        ),
        (FIVE + f"%tl_replace head {TWO}\n%tl_unfreeze layer4\n" + FAST, "other layers did, layer4"),
        (FIVE + f"%tl_replace head {TWO}\n%tl_freeze head.0\n" + FAST, "only head.3 did"),
        (FIVE + f"%tl_replace head {TWO}\n" + FAST, "none on these images"),
    ],
    "2.2": [
        ("", "nothing was trained yet"),
        (FIVE + FAST, "is not like that"),
        (ONE.format(seeds="(0,)", sources='("glyphnet",)'), "no run of glyphnet-few"),
        (ONE.format(seeds="(0,)", sources='("glyphnet", "glyphnet-few")'), "1 draws have both"),
        (
            ONE.format(seeds="(0, 1, 2)", sources='("glyphnet",)')
            + ONE.format(seeds="(3,)", sources='("glyphnet-few",)'),
            "0 draws have both; runs of glyphnet saw 3, of glyphnet-few 1",
        ),
        (ONE.format(seeds="(0, 1, 2)", sources='("glyphnet", "glyphnet-few")'), "there is no variable ahead_in"),
        (ONE.format(seeds="(0, 1, 2)", sources='("glyphnet", "glyphnet-few")') + "ahead_in = -1", "it is -1"),
    ],
    "2.3": [
        ("", "no data yet"),
        ("%tl_data digits --per-class 2", "the data have 2 of each"),
        ("%tl_data digits --per-class 5", "there is no variable train_features"),
        (HOOK.format(**{**RIGHT, "layer": "pool"}), "its shape is (50, 160, 1, 1)"),
        (HOOK.format(**{**RIGHT, "layer": "head"}), "its shape is (50, 1408)"),
        (HOOK.format(**{**RIGHT, "inputs": "data.images[split].float()"}), "in 0..255"),
        (HOOK.format(**{**RIGHT, "inputs": "data.images[split].float() / 255"}), "not normalised"),
        (HOOK.format(**{**RIGHT, "mode": "network.train()"}), "the network was in train mode"),
        (HOOK.format(**RIGHT), "there is no variable nearest"),
        (HOOK.format(**{**RIGHT, "end": "nearest = 1.0"}), "compared with themselves"),
        (HOOK.format(**{**RIGHT, "end": "nearest = 0.2"}), "not what your features give"),
    ],
}
