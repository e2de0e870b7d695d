"""Likely wrong answers to the exercises of lesson 8: words of the message, and of the first hint, that name the cause."""

FEW = """
from tlnb.core.data.builtin.leaves import leaf_photos
folder = leaf_photos("photos", leaves={"beech": 10, "birch": 3, "oak": 5})
"""
LEAVES = FEW + '(folder / "birch" / "from-oak.jpg").unlink()\ntl.load("glyphnet")\n'
TOGETHER = "tl.data(folder, test=0.33, group=r'(\\w+/leaf\\d+)')\n"
BY_LEAF = LEAVES + TOGETHER
SAVED = """
import torch
from safetensors.torch import load_file
from torch import nn
from tlnb import glyphnet
tl.train(epochs=1)
tl.save("leaves.safetensors")
network = glyphnet.load("glyphnet")
network.head = nn.Linear(network.head.in_features, 3)
{load}
network.{mode}()
images = nn.functional.interpolate(tl.dataset.images["{split}"].float(), (32, 32), mode="bilinear", antialias=True)
with torch.no_grad():
    {guesses} = network(images{prepared}).argmax(1)
"""
RIGHT = {
    "load": 'network.load_state_dict(load_file("leaves.safetensors"))',
    "mode": "eval",
    "split": "test",
    "guesses": "guesses",
    "prepared": " / 255 / 0.25 - 2",
}


def saved(**wrong: str) -> str:
    """The solution of 8.3 on few leaves, with something else in one place."""
    return BY_LEAF + SAVED.format(**{**RIGHT, **wrong})


WRONG = {
    "8.1": [
        ("", "no data yet", "%tl_data photos"),
        ("%tl_data digits --per-class 2", "the data are digits", "photos"),
        (
            FEW + "tl.load('glyphnet')\ntl.data(folder, test=0.33, group=r'(\\w+/leaf\\d+)')",
            "are the same image",
            "which label is right",
        ),
        (
            LEAVES + "tl.data(folder, test=0.33)\ntl.train(epochs=1)",
            "random, photo by photo",
            "%tl_data photos --group PATTERN",
        ),
        (
            LEAVES + "tl.data(folder, test=0.33, group=r'(\\w+/leaf\\d+_\\d)')\ntl.train(epochs=1)",
            "a group of its own",
            "have oak/leaf07 in common",
        ),
        (
            LEAVES + "tl.data(folder, test=0.33, group=r'_(\\d)')\ntl.train(epochs=1)",
            "and there are 3 groups",
            "leaf07_1.jpg and oak/leaf07_2.jpg",
        ),
        (BY_LEAF, "nothing was trained yet", "%tl_train"),
        (
            LEAVES + "tl.data(folder, test=0.33)\ntl.train(epochs=1)\n" + TOGETHER,
            "is not like that",
            "now that the data are in order",
        ),
    ],
    "8.2": [
        ("", "no data yet", "%tl_data photos"),
        (
            LEAVES + "tl.data(folder, per_class=4, group=r'(\\w+/leaf\\d+)')\ntl.train(epochs=1)",
            "1.0 times the labels",
            "without --per-class",
        ),
        (
            LEAVES
            + "tl.data(folder, test=0.33)\ntl.train(epochs=1)\ntl.train(epochs=1, class_weights=True)",
            "there are none",
            "--group",
        ),
        (BY_LEAF + "tl.train(epochs=1)", "there are none with", "%tl_train --class-weights"),
        (
            BY_LEAF + "tl.train(epochs=1, class_weights=True)",
            "there are none without",
            "without --class-weights",
        ),
        (
            BY_LEAF + "tl.train(epochs=1)\ntl.train(epochs=2, class_weights=True)",
            "differ in epochs",
            "the same for both runs: epochs",
        ),
        (
            BY_LEAF
            + "tl.train(epochs=1)\ntl.strategy('full')\ntl.train(epochs=1, class_weights=True)",
            "differ in strategy",
            "the same for both runs: strategy",
        ),
        (
            BY_LEAF + "tl.train(epochs=1)\ntl.train(epochs=1, class_weights=True)",
            "1 so far",
            "splits the photos differently",
        ),
    ],
    "8.3": [
        ("", "nothing was trained yet", "%tl_train"),
        (BY_LEAF + "tl.train(epochs=1)", "there is none of that name", "network ="),
        (
            BY_LEAF + "tl.train(epochs=1)\nnetwork = 'leaves.safetensors'",
            "it is a str",
            "network = glyphnet.load",
        ),
        (
            BY_LEAF
            + "tl.train(epochs=1)\nfrom tlnb import glyphnet\nnetwork = glyphnet.load('glyphnet')",
            "names or shapes differ",
            "as many outputs as classes",
        ),
        (saved(load=""), "tensors differ, head", "not loaded yet"),
        (saved(guesses="answers"), "no variable guesses", "guesses ="),
        (saved(split="train"), "it holds", 'tl.dataset.images["test"]'),
        (saved(prepared=""), "the network gets different inputs", "divide by 255"),
        (saved() + "\nnetwork.train()", "BatchNorm would use", "network.eval()"),
        (
            saved() + "\ntl.data('digits', per_class=1)",
            "different data or another split",
            "on the current data",
        ),
    ],
}
