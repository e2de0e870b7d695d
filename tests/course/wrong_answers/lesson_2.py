"""Likely wrong answers to the exercises of lesson 2: words of the message, and of the first hint, that name the cause."""

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
PERCENT = """
said = data.labels["train"][torch.cdist(test_features, train_features).argmin(1)]
nearest = 100 * (said == data.labels["test"]).float().mean()
"""

ADAPTER = FIVE + "%tl_strategy adapter --rank 1\n" + FAST + "\n"
BOTH = ADAPTER + "adapted = tl.runs[-1]\n%tl_strategy head\n" + FAST + "\n"
SHARE = "share = adapted.plan.trainable_params / adapted.plan.total_params\n"

WRONG = {
    "2.4": [
        ("", "nothing was trained yet", "%tl_train"),
        (FIVE + FAST, "so far there are runs of head", "%tl_strategy adapter"),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n%tl_strategy adapter --rank 1\n"
            + FAST,
            "is not like that",
            "--per-class 5",
        ),
        (ADAPTER, "none on these images", "takes the adapters away"),
        (BOTH, "there is no variable share", "run.plan.trainable_params"),
        (
            BOTH + SHARE + "share = 100 * share\n",
            "a share lies between 0 and 1",
            "run.plan.trainable_params",
        ),
        (
            BOTH + "share = tl.runs[-1].plan.trainable_params / tl.runs[-1].plan.total_params\n",
            "that is the share of the output layer alone",
            "run.plan.trainable_params",
        ),
        (BOTH + SHARE, "there is no variable extra", "run.module() is the network"),
        (
            BOTH
            + SHARE
            + "extra = len(adapted.network().state_dict()) - len(tl.model.module.state_dict())\n",
            "before they are merged",
            "run.module() is the network",
        ),
    ],
    "2.1": [
        ("", "nothing was trained yet", "%tl_train"),
        (
            "%tl_data digits --per-class 2\n%tl_load glyphnet\n" + FAST,
            "is not like that",
            "--per-class 5",
        ),
        (FIVE + FAST, "no run so far replaced a layer", "%tl_replace head"),
        (
            FIVE + "%tl_replace head nn.Linear(in_features, classes)\n" + FAST,
            "has 1 there",
            "nn.Linear(64, classes)",
        ),
        (
            FIVE
            + "%tl_replace head nn.Sequential(nn.Linear(in_features, 8), nn.Linear(8, classes))\n"
            + FAST,
            "between them is nothing",
            "without a ReLU",
        ),
        (
            FIVE
            + "%tl_replace head nn.Sequential(nn.Linear(in_features, 8), nn.ReLU(), nn.Linear(8, classes))\n"
            + FAST,
            "between them is ReLU",
            "the dropout belongs between",
        ),
        (
            FIVE + f"%tl_replace head {TWO}\n%tl_unfreeze layer4\n" + FAST,
            "other layers did, layer4",
            "freezes all but the output layer",
        ),
        (
            FIVE + f"%tl_replace head {TWO}\n%tl_freeze head.0\n" + FAST,
            "only head.3 did",
            "%tl_unfreeze head",
        ),
        (FIVE + f"%tl_replace head {TWO}\n" + FAST, "none on these images", "%tl_undo"),
    ],
    "2.2": [
        ("", "nothing was trained yet", "%tl_train"),
        (FIVE + FAST, "is not like that", "--per-class 1"),
        (
            ONE.format(seeds="(0,)", sources='("glyphnet",)'),
            "no run of glyphnet-few",
            "%tl_load glyphnet-few",
        ),
        (
            ONE.format(seeds="(0,)", sources='("glyphnet", "glyphnet-few")'),
            "1 draws have both",
            "another draw",
        ),
        (
            ONE.format(seeds="(0, 1, 2)", sources='("glyphnet",)')
            + ONE.format(seeds="(3,)", sources='("glyphnet-few",)'),
            "0 draws have both; runs of glyphnet saw 3, of glyphnet-few 1",
            "used with one source only",
        ),
        (
            ONE.format(seeds="(0, 1, 2)", sources='("glyphnet", "glyphnet-few")'),
            "there is no variable ahead_in",
            "it is a count",
        ),
        (
            ONE.format(seeds="(0, 1, 2)", sources='("glyphnet", "glyphnet-few")') + "ahead_in = -1",
            "it is -1",
            "the larger",
        ),
    ],
    "2.3": [
        ("", "no data yet", "--per-class 5"),
        (
            "%tl_data digits --per-class 2",
            "the data have 2 of each",
            "%tl_data digits --per-class 5",
        ),
        (
            "%tl_data digits --per-class 5",
            "there is no variable train_features",
            "register_forward_hook",
        ),
        (
            HOOK.format(**{**RIGHT, "layer": "pool"}),
            "its shape is (50, 160, 1, 1)",
            "from another layer",
        ),
        (
            HOOK.format(**{**RIGHT, "layer": "head"}),
            "its shape is (50, 1408)",
            "another layer: network.flatten",
        ),
        (
            HOOK.format(**{**RIGHT, "inputs": "data.images[split].float()"}),
            "in 0..255",
            "transform prepares uint8 images",
        ),
        (
            HOOK.format(**{**RIGHT, "inputs": "data.images[split].float() / 255"}),
            "not normalised",
            "as the network expects them",
        ),
        (
            HOOK.format(**{**RIGHT, "mode": "network.train()"}),
            "the network was in train mode",
            "is in eval mode",
        ),
        (HOOK.format(**RIGHT), "there is no variable nearest", "likeness ="),
        (
            HOOK.format(**{**RIGHT, "end": "nearest = 1.0"}),
            "compared with themselves",
            "each test image with each training image",
        ),
        (
            HOOK.format(**{**RIGHT, "end": PERCENT}),
            "a share lies between 0 and 1",
            "divide it by 100",
        ),
        (
            HOOK.format(**{**RIGHT, "end": "nearest = 0.2"}),
            "not what your features give",
            "each test image",
        ),
    ],
}
