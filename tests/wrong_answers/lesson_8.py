"""Likely wrong answers to the exercises of lesson 8, and words of the message that tells them apart."""

FEW = """
from tlnb.samples import leaf_photos
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
    "load": 'network.load_state_dict(load_file("leaves.safetensors"))', "mode": "eval", "split": "test", "guesses": "guesses",
    "prepared": " / 255 / 0.25 - 2",
}  # fmt: skip


def saved(**wrong: str) -> str:
    """The solution of 8.3 on few leaves, with something else in one place."""
    return BY_LEAF + SAVED.format(**{**RIGHT, **wrong})


WRONG = {
    "8.1": [
        ("", "no data yet"),
        ("%tl_data digits --per-class 2", "the data are digits"),
        (FEW + "tl.load('glyphnet')\ntl.data(folder, test=0.33, group=r'(\\w+/leaf\\d+)')", "are one image"),
        (LEAVES + "tl.data(folder, test=0.33)\ntl.train(epochs=1)", "at random, photo by photo"),
        (LEAVES + "tl.data(folder, test=0.33, group=r'(\\w+/leaf\\d+_\\d)')\ntl.train(epochs=1)", "a group of its own"),
        (LEAVES + "tl.data(folder, test=0.33, group=r'_(\\d)')\ntl.train(epochs=1)", "and there are 3 groups"),
        (BY_LEAF, "nothing was trained yet"),
        (LEAVES + "tl.data(folder, test=0.33)\ntl.train(epochs=1)\n" + TOGETHER, "is not like that"),
    ],
    "8.2": [
        ("", "no data yet"),
        (LEAVES + "tl.data(folder, per_class=4, group=r'(\\w+/leaf\\d+)')\ntl.train(epochs=1)", "1.0 times the labels"),
        (
            LEAVES + "tl.data(folder, test=0.33)\ntl.train(epochs=1)\ntl.train(epochs=1, class_weights=True)",
            "there is none",
        ),
        (BY_LEAF + "tl.train(epochs=1)", "there is none with"),
        (BY_LEAF + "tl.train(epochs=1, class_weights=True)", "there is none without"),
        (BY_LEAF + "tl.train(epochs=1)\ntl.train(epochs=2, class_weights=True)", "differ in epochs"),
        (
            BY_LEAF + "tl.train(epochs=1)\ntl.strategy('full')\ntl.train(epochs=1, class_weights=True)",
            "differ in strategy",
        ),
        (BY_LEAF + "tl.train(epochs=1)\ntl.train(epochs=1, class_weights=True)", "1 so far"),
    ],
    "8.3": [
        ("", "nothing was trained yet"),
        (BY_LEAF + "tl.train(epochs=1)", "there is none of that name"),
        (BY_LEAF + "tl.train(epochs=1)\nnetwork = 'leaves.safetensors'", "it is a str"),
        (
            BY_LEAF + "tl.train(epochs=1)\nfrom tlnb import glyphnet\nnetwork = glyphnet.load('glyphnet')",
            "names or shapes differ",
        ),
        (saved(load=""), "tensors differ, head"),
        (saved(guesses="answers"), "no variable guesses"),
        (saved(split="train"), "it holds"),
        (saved(prepared=""), "the network gets other inputs"),
        (saved() + "\nnetwork.train()", "BatchNorm would use"),
        (saved() + "\ntl.data('digits', per_class=1)", "other data or another split"),
    ],
}
