"""Folders and archives as people have them: what is a split, what is a class."""

from __future__ import annotations

import io
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.tolerance.inputs import class_folders, noise, opened, split_folders
from tlnb.core.data import archive
from tlnb.core.data.split_names import split_name
from tlnb.core.runtime.errors import DataError
from tlnb.display.data_cards import data_card


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training Data", "train"),
        ("seg_train", "train"),
        ("train2017", "train"),
        ("TRAIN_images", "train"),
        ("trainingSet", "train"),
        ("cats-vs-dogs.training", "train"),
        ("VALID", "val"),
        ("my_validation_set", "val"),
        ("dev", "val"),
        ("val-2012", "val"),
        ("test_set", "test"),
        ("Testing", "test"),
        ("hold-out", "test"),
        ("PrivateTest", "test"),
        ("PublicTest", "val"),
        ("eval", "eval"),
        ("evaluation_2", "eval"),
    ],
)
def test_words_that_mean_a_split(name: str, split: str):
    found = split_name(name)
    assert found is not None and found.split == split


@pytest.mark.parametrize(
    "name", ["trains", "attest", "contest", "devices", "evaluate train", "cats", "2017", "", "tëst"]
)
def test_words_that_mean_none(name: str):
    assert split_name(name) is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("Training Data", "Testing Data"),
        ("train", "eval"),
        ("train", "holdout"),
        ("train_images", "dev_images"),
    ],
)
def test_folders_of_the_same_classes_are_splits(tmp_path: Path, train: str, test: str):
    data = opened(split_folders(tmp_path, **{train: 4, test: 2}))
    assert (
        data.classes == ("cats", "dogs")
        and data.splits == {"train": 8, "test": 4}
        and not data.skipped
    )
    assert dict(data.folders) == {"train": train, "test": test}


def test_three_splits_each_keep_their_part(tmp_path: Path):
    for number, last in enumerate(("test", "eval")):
        data = opened(split_folders(tmp_path / str(number), train=5, dev=3, **{last: 2}))
        assert data.splits == {"train": 10, "val": 6, "test": 4}
    assert opened(split_folders(tmp_path / "2", train=5, eval=3, test=2)).splits == {
        "train": 10,
        "val": 6,
        "test": 4,
    }


def test_one_folder_in_another_is_descended_into(tmp_path: Path):
    for place in ("archive/dataset", "a/b/c"):
        assert opened(class_folders(tmp_path / place).parents[place.count("/") - 1]).classes == (
            "cats",
            "dogs",
        )
    for split, count in (("train", 4), ("test", 2)):
        class_folders(tmp_path / "twice" / split / split, count=count, start=10 * count)
    data = opened(tmp_path / "twice")
    assert data.splits == {"train": 8, "test": 4} and dict(data.folders) == {
        "train": "train/train",
        "test": "test/test",
    }


def test_what_lies_beside_a_folder_that_is_descended_into_is_listed(tmp_path: Path):
    for split, count in (("seg_train", 4), ("seg_test", 2)):
        class_folders(tmp_path / "archive" / split / split, count=count, start=10 * count)
    (tmp_path / "archive" / "seg_train" / "notes.txt").write_text("x")
    (tmp_path / "archive" / "seg_pred" / "seg_pred").mkdir(parents=True)
    noise(0, 99).save(tmp_path / "archive" / "seg_pred" / "seg_pred" / "0.png")
    data = opened(tmp_path)
    assert data.classes == ("cats", "dogs") and data.splits == {"train": 8, "test": 4}
    assert (
        len(data.skipped) == 2
        and "seg_pred: a folder beside" in data.skipped[0]
        and "notes.txt" in data.skipped[1]
    )


@pytest.mark.parametrize(
    "names", [("train_a", "train_b", "test"), ("val2017", "test2017"), ("train2017", "train2018")]
)
def test_where_it_cannot_be_told_a_line_asks(tmp_path: Path, names: tuple[str, ...]):
    with pytest.raises(
        DataError,
        match=r"cannot be told whether .* are splits or classes: rename .* train/ and test/",
    ):
        opened(split_folders(tmp_path, **dict.fromkeys(names, 2)))


def test_splits_of_other_classes_are_asked_about(tmp_path: Path):
    class_folders(tmp_path / "train_set", ("cats", "dogs"))
    class_folders(tmp_path / "test_set", ("left", "right"), start=50)
    with pytest.raises(DataError, match="cannot be told"):
        opened(tmp_path)


def test_train_beside_photos_without_labels(tmp_path: Path):
    """fastai/fastai #1552 and #2336: a folder of test photos became one more class."""
    class_folders(tmp_path / "train")
    (tmp_path / "test1").mkdir()
    noise(0, 77).save(tmp_path / "test1" / "1.png")
    data = opened(tmp_path)
    assert data.classes == ("cats", "dogs") and sum(data.splits.values()) == 12
    assert [words for words in data.skipped if "test1" in words]
    (tmp_path / "test1").rename(tmp_path / "unlabelled")
    with pytest.raises(DataError, match="cannot be told whether train are splits or classes"):
        opened(tmp_path)


def test_classes_whose_names_hold_such_words_stay_classes(tmp_path: Path):
    for names in (("steam train", "toy train", "tram"), ("test bench", "train"), ("dev", "valid")):
        assert set(opened(class_folders(tmp_path / names[0], names)).classes) == set(names)


def test_splits_inside_class_folders_are_refused(tmp_path: Path):
    """jfilter/split-folders #16: which of the two comes first is asked again and again."""
    for name in ("cats", "dogs"):
        class_folders(tmp_path / name, ("train", "test"))
    with pytest.raises(
        DataError, match="every class folder holds folders of splits: .*train/CLASS/.* CSV"
    ):
        opened(tmp_path)


def test_the_same_folders_in_every_class_are_said(tmp_path: Path):
    for name in ("spring", "summer"):
        class_folders(tmp_path / name, start=len(name))
    data = opened(tmp_path)
    assert data.classes == ("spring", "summer")
    assert (
        "each class folder holds cats, dogs: if those are the classes, give one of spring, summer"
        in data.notes[0]
    )


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_one_class_however_its_accents_are_stored(tmp_path: Path, forms: tuple[str, str]):
    """rfjakob/gocryptfs #992, Garmelon/PFERD #141: a Mac stores names in another form than others do."""
    for (split, count), form in zip((("train", 4), ("test", 2)), forms, strict=True):
        class_folders(
            tmp_path / split, (unicodedata.normalize(form, "Café"), "tea"), count, start=10 * count
        )
    data = opened(tmp_path)
    assert (
        data.classes == ("Café", "tea")
        and data.splits == {"train": 8, "test": 4}
        and not data.skipped
    )


def test_two_spellings_of_one_class_are_one(tmp_path: Path):
    for start, form in enumerate(("NFC", "NFD")):
        class_folders(tmp_path, (unicodedata.normalize(form, "Öl"), "tea"), 4, start=4 * start)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("one folder here, however its name is stored")
    data = opened(tmp_path)
    assert data.classes == ("tea", "Öl") and sum(data.splits.values()) == 16


def test_a_class_without_test_images_is_said_on_the_card(tmp_path: Path):
    """ultralytics/ultralytics #13936: three of four classes in the test folder, and numbers that meant other classes."""
    class_folders(tmp_path / "train", ("0", "180", "90"))
    class_folders(tmp_path / "test", ("0", "90"), 2, start=50)
    data = opened(tmp_path)
    assert "no test images for 180" in data_card(data)
    assert data.labels["test"].tolist() == [0, 0, 2, 2]


def test_valid_is_val(tmp_path: Path):
    """roboflow/roboflow-python #153: exported as `valid`, looked for as `val`."""
    assert opened(split_folders(tmp_path, train=4, valid=2, test=3)).splits == {
        "train": 8,
        "val": 4,
        "test": 6,
    }


# ── archives ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path_factory.mktemp("cache")))


def zipped(file: Path, top: Path, name) -> Path:
    """A zip file whose entries are called by `name(path below the folder)`."""
    with zipfile.ZipFile(file, "w") as out:
        for path in sorted(top.rglob("*.png")):
            entry = zipfile.ZipInfo()
            entry.filename = name(path.relative_to(top))
            out.writestr(entry, path.read_bytes())
    return file


def test_a_zip_file_with_backslashes(tmp_path: Path):
    """python/cpython #91036, icsharpcode/SharpZipLib #617: PowerShell's; its folders are entries that end so."""
    file = zipped(
        tmp_path / "d.zip", class_folders(tmp_path / "d"), lambda path: "\\".join(path.parts)
    )
    with zipfile.ZipFile(file, "a") as out:
        entry = zipfile.ZipInfo()
        entry.filename = "cats\\"
        out.writestr(entry, b"")
    data = opened(file)
    assert data.classes == ("cats", "dogs") and sum(data.splits.values()) == 12 and not data.skipped


def test_backslashes_lead_nowhere_else(tmp_path: Path):
    """dotnet/corefx #32788: both kinds of slashes in one name."""
    top = class_folders(tmp_path / "d")
    file = zipped(tmp_path / "d.zip", top, lambda path: f"photos/{path.parent}\\{path.name}")
    with zipfile.ZipFile(file, "a") as out:
        for name in ("..\\..\\evil.png", "photos\\..\\..\\evil.png", "\\evil.png"):
            entry = zipfile.ZipInfo()
            entry.filename = name
            out.writestr(entry, b"x")
    data = opened(file)
    assert sum(data.splits.values()) == 12
    assert [words.rpartition(": ")[2] for words in data.skipped] == ["leads out of the archive"] * 3


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".TAR.XZ"])
def test_tar_files_are_read(tmp_path: Path, ending: str):
    split_folders(tmp_path / "flowers", train=4, test=2)
    kind = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(
        ending.lower().rpartition(".")[2], "w"
    )
    with tarfile.open(tmp_path / f"flowers{ending}", kind) as out:
        out.add(tmp_path / "flowers", "flowers")
    for _ in range(2):  # unpacked, and found again
        data = opened(tmp_path / f"flowers{ending}")
        assert (
            data.name == "flowers" and data.splits == {"train": 8, "test": 4} and not data.skipped
        )
    assert not data.facts.plain_folder


def tar_entry(
    name: str, content: bytes = b"x", **more: object
) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def test_a_tar_file_writes_nothing_outside_its_folder(tmp_path: Path):
    top = class_folders(tmp_path / "d")
    with tarfile.open(tmp_path / "d.tgz", "w:gz") as out:
        out.add(top, "d")
        for name in ("../evil.png", "/evil.png", "d/../../evil.png", "C:/evil.png"):
            out.addfile(*tar_entry(name))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            out.addfile(*tar_entry("d/cats/link.png", b"", type=kind, linkname="/etc/passwd"))
        out.addfile(*tar_entry("d/cats/pipe.png", b"", type=tarfile.FIFOTYPE))
    data = opened(tmp_path / "d.tgz")
    assert sum(data.splits.values()) == 12
    reasons = sorted(words.rpartition(": ")[2] for words in data.skipped)
    assert reasons == ["a link", "a link", *["leads out of the archive"] * 4, "not a regular file"]


def test_a_tar_bomb_is_read_no_further_than_it_may_unpack(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(archive, "FREE_BYTES", 10**5)
    with tarfile.open(tmp_path / "d.tgz", "w:gz") as out:
        for i in range(3):
            out.addfile(*tar_entry(f"cats/{i}.png", bytes(10**6)))
    with pytest.raises(DataError, match="times its size, which an archive of photos never does"):
        opened(tmp_path / "d.tgz")
    monkeypatch.setattr(archive, "FREE_BYTES", 10**9)
    monkeypatch.setenv("TLNB_DISK", "2MB")
    with pytest.raises(DataError, match="set TLNB_DISK="):
        opened(tmp_path / "d.tgz")


def test_a_tar_file_with_a_name_of_gigabytes_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(archive, "LONGEST_HEADER", 1000)
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.GNU_FORMAT) as out:
        out.addfile(*tar_entry("x" * 3000))
    with pytest.raises(DataError, match="cannot be unpacked .an entry's name of 3,001 bytes"):
        opened(tmp_path / "d.tar")


def test_damaged_and_other_archives_are_one_line(tmp_path: Path):
    for name, words in (
        ("d.tar", "cannot be unpacked"),
        ("d.tgz", "cannot be unpacked"),
        ("d.rar", "a .zip, .tar or .tgz of one"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
        with pytest.raises(DataError, match=words):
            opened(tmp_path / name)


# ── by content ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["photo", "photo.0001", "photo.jpg_large", "photo.mpo", "photo.dat"]
)
def test_an_image_is_one_whatever_its_name_says(tmp_path: Path, name: str):
    """Files of web pages and archives without an ending."""
    top = class_folders(tmp_path / "d")
    noise(0, 50).save(top / "cats" / name, format="JPEG")
    data = opened(top)
    assert sum(data.splits.values()) == 13 and not data.skipped
    assert data.notes[0].startswith(f"cats/{name}: read, since the content is an image")


def test_what_is_no_image_stays_out(tmp_path: Path):
    top = class_folders(tmp_path / "d")
    (top / "cats" / "notes.txt").write_text("BM is not always a bitmap")
    noise(0, 50).save(top / "cats" / "page.pdf")
    noise(0, 51).save(top / "cats" / "IMG_1.CR2", format="TIFF")
    (top / "cats" / "folder.png").mkdir()
    noise(0, 52).save(top / "cats" / "folder.png" / "inside.png")
    data = opened(top)
    assert sum(data.splits.values()) == 13
    assert sorted(words.partition(" (")[2] for words in data.skipped) == [
        ".CR2): a camera's raw file, with a small preview at most; export it as .jpg",
        ".pdf)",
        ".txt)",
    ]


def test_a_link_out_of_the_folder_is_not_opened(tmp_path: Path):
    top = class_folders(tmp_path / "d")
    noise(0, 50).save(tmp_path / "secret", format="PNG")
    (top / "cats" / "link").symlink_to(tmp_path / "secret")
    data = opened(top)
    assert sum(data.splits.values()) == 12 and "cats/link: not an image type" in data.skipped[0]
