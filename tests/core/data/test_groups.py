"""Groups stay on one side of every split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.photos import opened, plants, two_classes
from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.request import DataRequest
from tlnb.core.runtime.errors import DataError, UsageError


def plants_of(data: DataSet, split: str) -> set[str]:
    return {Path(name).name.split("_")[0] for name in data.files[split]}


@pytest.mark.parametrize("how", ["pattern", "table"])
@pytest.mark.parametrize("amounts", [{}, {"val": 0.25}, {"per_class": 5, "seed": 3}])
def test_a_group_is_on_one_side_of_every_split(tmp_path: Path, how: str, amounts):
    top = plants(tmp_path / "photos")
    table = tmp_path / "groups.csv"
    table.write_text(
        "\n".join(
            f"{p.relative_to(top).as_posix()},{p.name.split('_')[0]}" for p in top.rglob("*.jpg")
        )
    )
    data = opened(top, edge=64, group=r"(plant\d+)_" if how == "pattern" else str(table), **amounts)
    seen = [plants_of(data, split) for split in data.splits]
    assert sum(map(len, seen)) == len(set().union(*seen)) and data.groups == 10
    assert all(set(data.labels[split].tolist()) == {0, 1} for split in ("train", "test"))
    assert not data.leaks


def test_series_that_a_random_split_cuts_are_flagged(tmp_path: Path):
    data = opened(plants(tmp_path), edge=64)
    assert any("--group" in words and "series" in words for words in data.notes)
    assert data.leaks and not any(leak.same for leak in data.leaks)
    grouped = opened(tmp_path, edge=64, group=r"(plant\d+)_")
    assert not any("series" in words for words in grouped.notes)


@pytest.mark.parametrize("way", ["table", "folders"])
def test_series_between_splits_that_the_data_bring_are_not_ours(tmp_path: Path, way: str):
    """Nothing was drawn here, so that `--group` would change nothing."""
    top = plants(tmp_path / "photos")
    lines = ["path,label,split"]
    for path in sorted(top.rglob("*.jpg")):
        split = "test" if path.stem.endswith("3") else "train"
        lines.append(f"photos/{path.relative_to(top).as_posix()},{path.parent.name},{split}")
        if way == "folders":
            (tmp_path / "x" / split / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "x" / split / path.parent.name)
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = opened(tmp_path / ("t.csv" if way == "table" else "x"), edge=64)
    assert len(data.leaks) == 10
    said = " ".join(data.notes)
    assert "random split" not in said and "--group" not in said
    assert (
        "10 of 10 test images have a twin" in said and "the test split came with the data" in said
    )


def test_series_are_told_with_what_keeps_them_together(tmp_path: Path):
    """Arrays take groups of their own, and torchvision's sets none."""
    top = plants(tmp_path / "eurosat" / "2750")
    pixels = [np.asarray(Image.open(path).resize((64, 64))) for path in sorted(top.rglob("*.jpg"))]
    arrays = open_data(np.stack(pixels), [i // 20 for i in range(40)])
    assert "group=GROUPS" in " ".join(arrays.notes) and "--group" not in " ".join(arrays.notes)
    drawn = open_data("EuroSAT", request=DataRequest(source="EuroSAT", root=str(tmp_path)), edge=64)
    assert "give the folder of its files by its path, and --group" in " ".join(drawn.notes)
    for split, number in (("train", 0), ("val", 3)):
        for name, wnid in (("well", "n01440764"), ("sick", "n02102040")):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            for photo in (top / name).glob(f"*_{number}.jpg"):
                shutil.copy(photo, folder / f"{photo.stem}.JPEG")
    own = open_data(
        "Imagenette", request=DataRequest(source="Imagenette", root=str(tmp_path)), edge=64
    )
    said = " ".join(own.notes)
    assert (
        "the splits are the data set's own" in said and "the test split came with the data" in said
    )
    assert "random split" not in said and "--group" not in said


def test_groups_between_splits_that_the_folder_brings_are_told(tmp_path: Path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "test", 2)
    assert "2 groups lie in more than one" in " ".join(opened(tmp_path, group=r"(\d+)\.png").notes)


def test_too_few_groups_for_val_leave_it_out_unless_asked_for(tmp_path: Path):
    for name in "ab":
        for group in range(2):
            for i in range(25):
                picture(tmp_path / name / f"{name}{group}_{i}.png", 40 + 60 * group + i, (8, 8))
    data = opened(tmp_path, edge=8, group="([^/]+)_")
    assert data.splits == {"train": 50, "test": 50}
    with pytest.raises(DataError, match="2 groups cannot be divided"):
        opened(tmp_path, edge=8, group="([^/]+)_", val=0.2)


def test_braces_reach_the_pattern_where_they_are_doubled(tmp_path: Path, shell):
    for name in "ab":
        for i in range(12):
            picture(tmp_path / name / f"{i // 3:02}{i:02}.png", 10 * i, (8, 8))
    data = shell.run_line_magic("tl_data", f"{tmp_path} --group /(..)")
    assert data.groups == 4
    shell.run_cell(f"%tl_data {tmp_path} --group ([0-9]{{{{2}}}})[0-9]+").raise_error()
    assert shell.user_ns["tl"].dataset.groups == 4


def test_arrays_take_groups(session):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    data = session.data(images, [0, 1] * 20, group=np.repeat(np.arange(10), 4))
    inside = {s: {i.numpy().tobytes() for i in part[:, 0]} for s, part in data.images.items()}
    for group in images.reshape(10, 4, 8, 8):
        assert sum(any(image.tobytes() in part for image in group) for part in inside.values()) == 1
    with pytest.raises(DataError, match="40 images but 3 groups"):
        session.data(images, [0, 1] * 20, group=[1, 2, 3])


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ("([", UsageError, "is not a valid regular expression"),
        ("zzz", UsageError, "matches none of the 12 files"),
        ("none.csv", DataError, "'none.csv' does not exist"),
        (r"\.png", DataError, "all images into one group"),
        (r"^(.)/", DataError, "cannot be divided so that every class"),
    ],
)
def test_bad_groups_are_one_line(tmp_path: Path, group, error, words):
    with pytest.raises(error, match=words) as raised:
        opened(two_classes(tmp_path), group=group)
    assert "\n" not in str(raised.value)


def test_only_files_take_group_and_root():
    for option in ("group", "root"):
        with pytest.raises(UsageError, match=f"leave out --{option}"):
            open_data("digits", request=DataRequest(source="digits", **{option: "x"}))
