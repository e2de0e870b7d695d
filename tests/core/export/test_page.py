"""A run as a page: its answers in a real browser, what it asks of the network, who can use it."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.front_end import browser
from tests.core.export.pages import SavedPage, from_npm, runtime_folder, served
from tlnb.core.export import onnx_file, page
from tlnb.core.models.calibration import WithLikeness
from tlnb.core.runtime.errors import ModelError, TLError, UsageError
from tlnb.session import Session

pytest.importorskip("onnxscript")
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

ODD = "<img src=x onerror=alert(1)> {{script}}"  # a class that looks like HTML, and a template's place
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
NEAR = 0.01


@pytest.fixture(scope="module")
def trained() -> Session:
    """Digits as one's own images, with an odd name among the classes."""
    digits = Session().data("digits", per_class=4)
    names = [ODD if label == 3 else f"digit {label}" for label in digits.labels["train"].tolist()]
    session = Session()
    session.data(digits.images["train"].numpy(), names, test=0.5)
    session.load("glyphnet")
    session.train(epochs=30)
    return session


@pytest.fixture(scope="module", autouse=True)
def _exported_once() -> Iterator[None]:
    """The network of `trained` is exported once, which takes seconds."""
    real, done = onnx_file.onnx_model, {}

    def once(module: nn.Module, transform: Any, name: str) -> Any:
        if name != "glyphnet" or isinstance(module, WithLikeness):
            return real(module, transform, name)
        return copy.deepcopy(done.get(name) or done.setdefault(name, real(module, transform, name)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "onnx_model", once)
        yield


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runtime_folder(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    pytest.importorskip("playwright")
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium on this machine")
    with browser(900, 1000, *CAMERA) as found:
        yield found


@pytest.fixture(scope="module")
def offline(trained: Session, runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that has everything in it."""
    file = tmp_path_factory.mktemp("page") / "my digits.html"
    trained.save(file, runtime=runtime)
    return file


@pytest.fixture(scope="module")
def kept(context: Any, offline: Path) -> SavedPage:
    return SavedPage(context, offline.as_uri()).started()


@pytest.fixture
def opened(kept: SavedPage) -> Iterator[SavedPage]:
    """The page, from a file; whatever a test does, it says nothing on the console."""
    kept.script("document.getElementById('answers').replaceChildren()")
    yield kept
    assert kept.console == [] and [u for u in kept.requests if u.startswith("http")] == []


def scene(width: int, height: int) -> Image.Image:
    """A picture with edges, fine texture and colours."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(40 * x * y + i) + np.sin(150 * x + 90 * i * y) for i in range(3)]
    pixels = np.stack(waves, -1) * 50 + 120 + 60 * (x > y)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photos(folder: Path) -> list[Path]:
    """One of each kind that is read differently."""
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = scene(90, 70).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((90, 70)))
    made = {
        "small.png": (scene(20, 30), {}),
        "photo.jpg": (scene(700, 501), {"quality": 90}),
        "turned.jpg": (scene(301, 200), {"exif": turned}),
        "clear.png": (clear, {}),
        "panorama.png": (scene(500, 60), {}),
        "grey.webp": (scene(64, 64).convert("L"), {"lossless": True}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return [folder / name for name in made]


def expected(session: Session, files: list[Path]) -> list[dict[str, float]]:
    found = session.predict(*map(str, files), top=len(session.dataset.classes))
    return [dict(each.labels) for each in found.images]


def furthest(first: list[dict[str, float]], second: list[dict[str, float]]) -> float:
    """The largest difference of a probability."""
    pairs = [(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a]
    return max(abs(a - b) for a, b in pairs)


def test_it_answers_as_predict_does(opened: SavedPage, trained: Session, tmp_path: Path):
    files = photos(tmp_path)
    found, right = opened.give(*files), expected(trained, files)
    assert [max(f, key=f.get) for f in found] == [max(r, key=r.get) for r in right]
    assert furthest(found, right) <= NEAR
    assert any(ODD in answer for answer in found) and opened.page.locator("img").count() == 0


class Colours(nn.Module):
    """A network whose answers hang on every pixel, with preprocessing as timm states it."""

    def __init__(self, interpolation: str) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(3 * 48 * 48, 10)
        self.pretrained_cfg = {
            "input_size": (3, 48, 48),
            "crop_pct": 0.8,
            "interpolation": interpolation,
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.25, 0.3),
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(images))


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
def test_ones_own_network_and_its_preprocessing(
    interpolation: str, context: Any, session: Session, runtime: Path, tmp_path: Path
):
    session.data("digits", per_class=2)
    session.load(Colours(interpolation), called="colours")
    run = session.train(epochs=3)
    assert run.edge != run.transform().resize > run.transform().size
    session.save(tmp_path / "colours.html", runtime=runtime)
    seen = SavedPage(context, (tmp_path / "colours.html").as_uri()).started()
    files = photos(tmp_path)
    assert furthest(seen.give(*files), expected(session, files)) <= NEAR
    seen.page.close()


@pytest.mark.slow
def test_a_photo_of_40_megapixels(opened: SavedPage, trained: Session, tmp_path: Path):
    files = [tmp_path / "large.jpg", tmp_path / "large.png"]
    small = scene(730, 548)
    for file in files:
        small.resize((7300, 5480), Image.Resampling.BICUBIC).save(file, compress_level=1)
    found, right = opened.give(*files), expected(trained, files)
    assert furthest(found, right) <= NEAR


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_0", "efficientnet_lite0"])
def test_the_same_answers_on_real_photos(
    name: str, context: Any, runtime: Path, real_data: Path, tmp_path: Path
):
    session = Session()
    session.data(str(real_data / "ants_bees"))
    weights = real_data / f"{name}_imagenet.safetensors"
    session.load(name, str(weights) if weights.exists() else "default")
    session.train()
    session.save(tmp_path / "ants or bees.html", runtime=runtime)
    seen = SavedPage(context, (tmp_path / "ants or bees.html").as_uri()).started()
    files = sorted((real_data / "ants_bees" / "val").rglob("*.jpg"))
    found, right = seen.give(*files, seconds=600), expected(session, files)
    assert len(files) == 153 and seen.console == []
    assert [max(f, key=f.get) for f in found] == [max(r, key=r.get) for r in right]
    assert furthest(found, right) <= NEAR
    seen.page.close()


def test_a_broken_image_is_one_line(opened: SavedPage, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    scene(40, 40).save(tmp_path / "whole.png")
    opened.give(tmp_path / "broken.jpg", tmp_path / "whole.png")
    assert opened.page.get_by_text("broken.jpg: this browser cannot read it").count() == 1
    assert len(opened.headlines()) == 1


def test_dropped_and_pasted_photos(opened: SavedPage):
    for event, field in (
        ("DragEvent('drop'", "dataTransfer"),
        ("ClipboardEvent('paste'", "clipboardData"),
    ):
        opened.script(
            "(async () => { const data = new DataTransfer(), canvas = new OffscreenCanvas(40, 40);"
            "canvas.getContext('2d').fillRect(9, 9, 9, 9);"
            "data.items.add(new File([await canvas.convertToBlob()], 'new.png', {type: 'image/png'}));"
            f"document.dispatchEvent(new {event}, {{{field}: data, bubbles: true}})) }})()"
        )
        opened.page.get_by_text("new.png", exact=True).last.wait_for()
    opened.page.locator("#answers > article").nth(1).wait_for()


def test_the_camera(opened: SavedPage):
    page = opened.page
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#now", has_text="%").wait_for()
    page.get_by_role("button", name="Keep this photo").click()
    page.locator("#answers > article").wait_for()
    page.get_by_role("button", name="Stop the camera").click()
    assert page.locator("video").is_hidden()
    assert opened.script("document.querySelector('video').srcObject === null")


def test_by_keyboard_alone(opened: SavedPage, tmp_path: Path):
    page, keys = opened.page, opened.page.keyboard
    scene(40, 40).save(tmp_path / "one.png")
    page.locator("h1").click()  # the start of the page
    keys.press("Tab")
    with page.expect_file_chooser() as chooser:
        keys.press("Space")
    chooser.value.set_files(tmp_path / "one.png")
    page.locator("#answers > article").wait_for()
    for _ in range(2):  # past the camera, to the folded classes
        keys.press("Tab")
    keys.press("Enter")
    assert page.locator("details[open] li").count() == 5
    assert opened.script("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_on_a_phone_and_in_the_dark(opened: SavedPage, tmp_path: Path):
    scene(40, 40).save(tmp_path / f"{'a-long-name' * 12}.png")
    opened.give(next(tmp_path.glob("a-*.png")))
    opened.page.set_viewport_size({"width": 360, "height": 640})
    assert opened.script("document.documentElement.scrollWidth") <= 360
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        assert opened.script(WORST_CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3
    opened.page.set_viewport_size({"width": 900, "height": 1000})


WORST_CONTRAST = """(() => {
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const behind = e => { const c = getComputedStyle(e).backgroundColor;
    return c !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? c : behind(e.parentElement) };
  const texts = [...document.querySelectorAll('main *')].filter(e => e.checkVisibility() &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return Math.min(...texts.map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) }));
})()"""


@pytest.mark.slow
def test_from_a_host_with_the_runtime_from_a_cdn(
    context: Any, trained: Session, runtime: Path, tmp_path: Path
):
    trained.save(tmp_path / "leaves.html")
    files = photos(tmp_path)[:2]
    from_npm(context, runtime)
    with served(tmp_path) as address:
        older = "delete Uint8Array.fromBase64"  # browsers before 2025
        seen = SavedPage(context, f"{address}/leaves.html", older).started()
        assert furthest(seen.give(*files), expected(trained, files)) <= NEAR
        hosts = {re.match(r"\w+://[^/]+", url)[0] for url in seen.requests if url[:4] == "http"}
        assert hosts == {address, f"https://{page.HOST}"} and seen.console == []
    context.unroute_all()


@pytest.mark.slow
def test_another_file_at_the_cdn_is_not_run(
    context: Any, trained: Session, runtime: Path, tmp_path: Path
):
    trained.save(tmp_path / "leaves.html")
    from_npm(context, runtime, spoiled=True)
    seen = SavedPage(context, (tmp_path / "leaves.html").as_uri())
    seen.page.get_by_text(f"does {page.HOST} answer?").wait_for(timeout=30_000)
    context.unroute_all()
    seen.page.close()


def test_calibrated_answers_and_none_of_these(context: Any, runtime: Path, tmp_path: Path):
    session, file = Session(), tmp_path / "sure.html"
    digits = session.data("digits", per_class=20)
    session.load("glyphnet")
    calibration = session.train(epochs=5).calibration
    assert calibration is not None
    saved = session.save(file, runtime=runtime)
    assert saved.compared is not None and saved.compared.holds
    files = photos(tmp_path)
    for i, pixels in enumerate(digits.images["test"][:6]):
        files.append(tmp_path / f"digit {i}.png")
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(files[-1])
    seen = SavedPage(context, file.as_uri()).started()
    assert furthest(seen.give(*files), expected(session, files)) <= NEAR
    right = session.predict(*map(str, files)).labels
    refused = [said.startswith("none of these (nearest: ") for said in reversed(seen.headlines())]
    assert refused == [label is None for label in right] and 0 < sum(refused) < len(files)
    assert f"calibrated on {calibration.labels} held-out labels" in seen.page.inner_text("dl")
    seen.page.close()


def test_what_it_says_of_itself(trained: Session, tmp_path: Path):
    saved, run = trained.save(tmp_path / "a & b.html"), trained.runs[-1]
    text = (tmp_path / "a & b.html").read_text("utf8")
    assert "<title>a &amp; b</title>" in text and ODD not in text
    assert f"{run.accuracy:.1%} on {run.test_images} test images" in text
    assert saved.compared.holds and saved.compared.weights == "fp16"
    assert len((Path(page.__file__).parent / "page.js").read_text("utf8").splitlines()) <= 200


# ── what cannot be saved so ──


def refused(session: Session, file: Path, error: type[TLError], words: str, **asked: Any) -> None:
    """One line, and no file."""
    before, script = sorted(file.parent.iterdir()), str(session.script())
    with pytest.raises(error, match=words) as raised:
        session.save(file, **asked)
    assert "\n" not in str(raised.value) and str(session.script()) == script
    assert sorted(file.parent.iterdir()) == before


def test_a_folder_without_the_runtime(trained: Session, tmp_path: Path):
    file = tmp_path / "leaves.html"
    refused(trained, file, UsageError, r"ort\.wasm.*, ort-wasm.*npm pack", runtime=tmp_path)
    for name, _ in page.FILES.values():
        (tmp_path / name).write_bytes(b"of another version")
    refused(trained, file, UsageError, f"another .* than {page.VERSION}", runtime=tmp_path)
    refused(trained, tmp_path / "x.onnx", UsageError, "save x.html instead", runtime=tmp_path)


def test_the_magic_takes_the_folder_too(shell: Any, tmp_path: Path):
    for line in ("tl_data digits --per-class 1", "tl_load glyphnet", "tl_train --epochs 1"):
        shell.run_line_magic(*line.split(" ", 1))
    with pytest.raises(UsageError, match=f"--runtime {tmp_path} lacks"):
        shell.run_line_magic("tl_save", f"{tmp_path}/leaves.html --runtime {tmp_path}")
    with pytest.raises(UsageError, match="leave out FILE, --run and --runtime"):
        shell.run_line_magic("tl_save", f"--job job.json --runtime {tmp_path}")


@pytest.mark.parametrize("most", [10**5, 10**6])  # less than the parameters, than the page
def test_a_page_that_would_be_too_large(
    most: int, trained: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page, "MOST_BYTES", most)
    refused(trained, tmp_path / "leaves.html", UsageError, "a smaller network")


def test_without_the_packages(trained: Session, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_package"))
    for name in ("leaves.html", "leaves.onnx"):
        refused(trained, tmp_path / name, UsageError, r"pip install .tlnb\[page\]")


class Unknown(nn.Module):
    """A network with an operation that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.linalg.svdvals(images.mean(1)))


def test_a_network_that_onnx_cannot_express(session: Session, tmp_path: Path, capfd):
    session.data("digits", per_class=1)
    session.load(Unknown(), size=32, called="net")
    session.train(epochs=1)
    capfd.readouterr()
    for name in ("leaves.html", "leaves.onnx"):
        refused(session, tmp_path / name, ModelError, "no operation for aten._linalg_svd")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("factor", "halved"), [(1.0, True), (1e6, False)])
def test_weights_that_fp16_cannot_hold_stay(factor: float, halved: bool):
    values = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32) * factor
    proto = onnx_file.halved(one_weight(values))
    assert len(proto.SerializeToString()) < values.nbytes or not halved
    (found,) = ReferenceEvaluator(proto).run(None, {"images": np.eye(32, dtype=np.float32)})
    assert np.abs(found - values).max() <= halved * 2**-10 * np.abs(values).max()


def one_weight(values: np.ndarray) -> Any:
    """A network that multiplies by a matrix."""
    node = helper.make_node("MatMul", ["images", "weight"], ["scores"])
    ends = [helper.make_tensor_value_info(n, 1, values.shape) for n in ("images", "scores")]
    graph = helper.make_graph(
        [node], "net", ends[:1], ends[1:], [numpy_helper.from_array(values, "weight")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_answers_that_differ_are_no_page(trained: Session, tmp_path: Path, monkeypatch):
    pytest.importorskip("onnxruntime")
    real = onnx_file.runtime_scores
    monkeypatch.setattr(onnx_file, "runtime_scores", lambda *given: real(*given).roll(1, 1))
    refused(trained, tmp_path / "leaves.html", ModelError, "answers otherwise")
    assert not trained.save(tmp_path / "leaves.onnx").compared.holds  # which says so


def test_answers_of_large_images_are_compared_a_few_at_a_time():
    seen, network = [], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    batch = torch.randn(20, 3, 224, 224)
    scores = onnx_file.half_scores(network, batch)
    assert max(seen) < len(batch) == sum(seen)
    torch.testing.assert_close(scores, network(batch), rtol=1e-2, atol=1e-3)


def test_weights_stay_whole_where_halves_answer_otherwise(trained: Session, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    real, half = onnx_file.runtime_scores, b"_fp16"  # as halved weights are called
    shifted = lambda content, batch: real(content, batch).roll(int(half in content), 1)  # noqa: E731
    monkeypatch.setattr(onnx_file, "runtime_scores", shifted)
    compared = trained.save(tmp_path / "leaves.html").compared
    assert compared.holds and compared.weights == "fp32"
