"""`%tl_code` for networks of one's own that give more than scores, or none: the scripts run without tlnb, and end as the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.core.export.scripts import Scripts
from tlnb.core.export.pytorch_script import training_section
from tlnb.core.models import flops as meter
from tlnb.core.planning import recipes
from tlnb.core.training import head_first
from tlnb.session import Session

EXACT = {"epochs": 2, "batch_size": 16, "augment": "none", "precision": "fp32"}

COMMON = """
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc, self.aux = nn.Linear(8, 5), nn.Linear(8, 5)

    def features(self, x):
        return self.trunk(x).mean((2, 3))

    def scores(self, x):
        return self.fc(self.features(x))
"""

OUTPUTS = {
    "Dict": 'return {"features": self.features(x), "logits": self.scores(x)}',
    "Ordered": "return OrderedDict(out=self.scores(x), aux=self.aux(self.features(x)))",
    "Only": "return {3: self.scores(x)}",
    "Pair": "return self.scores(x), self.features(x)",
    "Behind": "return self.features(x), self.scores(x)",
    "Fields": 'return namedtuple("Output", "hidden logits")(x, self.scores(x))',
    "Record": "return Held(self.scores(x))",
    "Nested": 'return {"out": [self.scores(x), x]}',
    "Auxiliary": """y = self.scores(x)
        y = F.dropout(y, 0.2, training=self.training)
        return (y, self.aux(self.features(x))) if self.training else y""",
    "Varied": """y = self.scores(x)
        return {"logits": y, "loss": None} if self.training else [y]""",
}
RECORD = """
@dataclass
class Held:
    logits: object
    loss: object = None
"""
ENDINGS = {
    "Features": """
class Features(Base):
    def __init__(self):
        super().__init__()
        del self.fc, self.aux
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.features(x))
""",
    "Headless": """
class Headless(Base):
    def __init__(self):
        super().__init__()
        del self.fc, self.aux
        self.norm, self.fc = nn.LayerNorm(8), nn.Identity()

    def forward(self, x):
        return self.fc(self.norm(self.features(x)))
""",
    "make_network": """
def make_network():
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(trunk, nn.BatchNorm1d(8))
""",
    "Both": """
class Both(Base):
    def __init__(self):
        super().__init__()
        del self.fc, self.aux
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return {"out": self.norm(self.features(x))}
""",
}


def module_of(name: str) -> str:
    """The file of a network's code."""
    if name in ENDINGS:
        return COMMON + ENDINGS[name]
    own = f"\nclass {name}(Base):\n    def forward(self, x):\n        {OUTPUTS[name]}\n"
    return COMMON + RECORD + own


def network(name: str) -> nn.Module:
    """The network that this code makes."""
    made: dict[str, Any] = {"__name__": "builtins"}
    exec(compile(module_of(name), name, "exec", dont_inherit=True), made)
    return made[name]()


def tones(each: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of three tones."""
    labels = np.repeat([0, 1, 2], each)
    noise = np.random.default_rng(0).normal(0, 40, (len(labels), 32, 32, 3))
    return np.clip(60 + 60 * labels[:, None, None, None] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    """Every network's runs, and their scripts executed."""
    made = Scripts(tmp_path_factory.mktemp("scripts"))
    with pytest.MonkeyPatch.context() as patch:
        short = replace(recipes.WARMUP, epochs=2)
        for module in (head_first, training_section):
            patch.setattr(module, "WARMUP", short)
        patch.setattr(meter, "_counted", lambda *_, **__: 1.0)  # it takes longer than training here
        for name in (*OUTPUTS, *ENDINGS):
            session = Session()
            session.data(*tones())
            session.load(network(name), size=32)
            for strategy in ("head", "full", "scratch"):
                session.strategy(strategy)
                session.train(**EXACT)
                made.add(name, session, your_module=module_of(name))
        joined(made)
        made.execute()
    return made


def joined(scripts: Scripts) -> None:
    """Batches of two of an odd number of images, where BatchNorm trains and where it is frozen."""
    session = Session()
    session.data(*tones(7), test=0.3)
    assert session.dataset is not None and session.dataset.splits["train"] % 2
    session.load(network("Dict"), size=32)
    for strategy in ("full", "head"):
        session.strategy(strategy)
        session.train(**{**EXACT, "batch_size": 2})
        scripts.add("joined", session, your_module=module_of("Dict"))


@pytest.mark.parametrize("name", [*OUTPUTS, *ENDINGS])
def test_scripts_of_own_networks_end_with_the_runs_weights(scripts: Scripts, name: str):
    for script in scripts.groups[name]:
        script.check_weights(3e-4)
        script.check_logits(3e-4)


def test_a_script_says_in_a_line_what_is_taken(scripts: Scripts):
    def line(name: str) -> str:
        return next(x for x in scripts.groups[name][0].text.split("\n") if "_forward_hook(l" in x)

    assert line("Dict").strip() == 'model.register_forward_hook(lambda _, __, y: y["logits"])'
    assert "y if isinstance(y, Tensor) else y[0]" in line("Auxiliary")
    assert "lambda _, __, y: y.logits" in line("Record")
    assert "model.output_layer = nn.Linear(8, 2)" in scripts.groups["Features"][0].text
    assert "model.fc = nn.Linear(8, 2)" in scripts.groups["Headless"][0].text


def test_batches_are_as_the_run_had_them(scripts: Scripts):
    """A last batch of one image has no batch statistics: the run joined it to the others, and so does its script."""
    full, head = scripts.groups["joined"]
    assert "EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 2, 3," in full.text
    assert "EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 2, 2," in head.text
    for script in (full, head):
        script.check_weights(3e-4)
