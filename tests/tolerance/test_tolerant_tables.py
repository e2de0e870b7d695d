"""Tables as people have them: columns, splits, labels, and names of files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.tolerance.inputs import noise, opened, table
from tlnb.core.data.dataset import DataSet
from tlnb.core.runtime.errors import DataError


def held_out(data: DataSet) -> int:
    return sum(data.splits.values()) - data.splits["train"]


@pytest.mark.parametrize(
    "head",
    [
        "path,label",
        "image_id,label",
        "Image Name,Class",
        "id,breed",
        "filenames,cats",
        "FilePath;Label",
        "img\ttarget",
        "name,label",
        "Image,Id",
        "uuid,Species",
    ],
)
def test_columns_under_their_usual_names(tmp_path: Path, head: str):
    """fastai/fastai #1169: columns called `filenames` and `cats`."""
    between = next(c for c in ";\t," if c in head)
    data = opened(table(tmp_path, head, lambda name, label, i: f"{name}.png{between}{label}"))
    assert data.classes == ("cat", "dog") and sum(data.splits.values()) == 12 and not data.skipped


def test_the_most_telling_column_counts(tmp_path: Path):
    data = opened(
        table(
            tmp_path,
            "id,class id,filepaths,labels,data set",
            lambda p, y, i: (
                f"{i},{i % 2},{p}.png,{y},test" if i > 8 else f"{i},{i % 2},{p}.png,{y},train"
            ),
        )
    )
    assert data.classes == ("cat", "dog") and data.splits == {"train": 9, "test": 3}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("x,y", "no column path .it has x, y; looked for path: path, filepath, .* image, .* id, "),
        (
            "image,a,b",
            "no column label .it has image, a, b; looked for label: label, .* class, .*: name them in its first line",
        ),
        ("emotion,pixels,usage", "no columns path and label .* looked for path: .*; label: label"),
    ],
)
def test_an_error_names_the_columns_that_were_looked_for(tmp_path: Path, head: str, words: str):
    with pytest.raises(DataError, match=words):
        opened(
            table(tmp_path, head, lambda name, label, i: f"{name}.png{',cat' * head.count(',')}")
        )


@pytest.mark.parametrize(
    ("column", "held", "rest"),
    [
        ("is_valid", "True", "False"),
        ("is_valid", "1", "0"),
        ("is_test", "yes", "no"),
        ("is_train", "false", "true"),
        ("split", "validation", "train"),
        ("set", "TEST", "TRAIN"),
        ("subset", "dev", ""),
        ("Usage", "PrivateTest", "Training"),
        ("partition", "holdout", "train"),
        ("phase", "eval", "train"),
        ("split", "test_set", "training_set"),
    ],
)
def test_splits_under_their_usual_names_and_values(
    tmp_path: Path, column: str, held: str, rest: str
):
    """liaopeiyuan/artbench #2: the split is a column of the metadata."""
    data = opened(
        table(
            tmp_path,
            f"path,label,{column}",
            lambda p, y, i: f"{p}.png,{y},{held if i % 3 == 0 else rest}",
        )
    )
    assert data.classes == ("cat", "dog") and held_out(data) == 4


def test_public_and_private_tests_are_val_and_test(tmp_path: Path):
    usage = ("Training", "Training", "PublicTest", "PrivateTest")
    data = opened(
        table(tmp_path, "path,label,Usage", lambda p, y, i: f"{p}.png,{y},{usage[i // 2 % 4]}")
    )
    assert data.splits == {"train": 8, "val": 2, "test": 2}


def test_eval_is_val_where_there_is_a_test(tmp_path: Path):
    splits = ("train", "eval", "test")
    data = opened(
        table(tmp_path, "path,label,split", lambda p, y, i: f"{p}.png,{y},{splits[i // 2 % 3]}")
    )
    assert data.splits == {"train": 4, "val": 4, "test": 4}


def test_rows_without_a_split_are_trained_on_and_said(tmp_path: Path):
    data = opened(
        table(
            tmp_path, "path,label,split", lambda p, y, i: f"{p}.png,{y},{'test' if i < 4 else ' '}"
        )
    )
    assert (
        data.splits == {"train": 8, "test": 4}
        and "8 rows without a split are trained on" in data.notes
    )


def test_another_split_is_refused_and_another_meaning_is_none(tmp_path: Path):
    with pytest.raises(
        DataError,
        match=r"labels.csv, line 2: split must be one of train, val and test, got 'fold0'",
    ):
        opened(table(tmp_path, "path,label,split", lambda p, y, i: f"{p}.png,{y},fold{i % 3}"))
    with pytest.raises(
        DataError, match=r"line 2: is_valid must be one of true and false, got 'maybe'"
    ):
        opened(table(tmp_path, "path,label,is_valid", lambda p, y, i: f"{p}.png,{y},maybe"))
    data = opened(
        table(tmp_path, "path,label,dataset", lambda p, y, i: f"{p}.png,{y},vienna")
    )  # where it comes from
    assert sum(data.splits.values()) == 12


# ── labels ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("nothing", ["", " ", "nan", "NaN", "None", "<NA>", "null"])
def test_no_label_is_no_class(tmp_path: Path, nothing: str):
    """WeikaiTan/Toronto-3D #1, flairNLP/flair #2068: what is not labelled became a class of its own."""
    data = opened(
        table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{nothing if i < 2 else y}")
    )
    assert data.classes == ("cat", "dog") and sum(data.splits.values()) == 10
    assert [words.startswith(f"line {n}: no label") for n, words in enumerate(data.skipped, 2)] == [
        True,
        True,
    ]


def test_a_class_may_be_called_none(tmp_path: Path):
    data = opened(
        table(
            tmp_path, "path,defect", lambda p, y, i: f"{p}.png,{'none' if y == 'cat' else 'crack'}"
        )
    )
    assert data.classes == ("crack", "none")


def test_labels_in_two_unicode_forms_are_one_class(tmp_path: Path):
    data = opened(
        table(
            tmp_path,
            "path,label",
            lambda p, y, i: (
                f"{p}.png,"
                + (
                    "tea"
                    if y == "cat"
                    else unicodedata.normalize(("NFC", "NFD")[i // 2 % 2], "Café")
                )
            ),
        )
    )
    assert data.classes == ("Café", "tea")


def test_a_file_that_is_listed_twice_counts_once(tmp_path: Path):
    data = opened(table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{y}\n./{p}.png,{y}"))
    assert sum(data.splits.values()) == 12 and len(data.skipped) == 12 and not data.leaks
    assert data.skipped[0] == "line 3: listed already, in line 2"


def test_a_file_of_two_labels_is_listed_and_not_used(tmp_path: Path):
    data = opened(
        table(
            tmp_path,
            "path,label",
            lambda p, y, i: f"{p}.png,{y}" + (f"\n{p}.png,dog" if i == 0 else ""),
        )
    )
    assert sum(data.splits.values()) == 11
    assert data.skipped == ("line 2: listed with more than one label (cat, dog)",)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", ["", "train/", "train\\"])
def test_ids_without_an_ending_find_their_files(tmp_path: Path, prefix: str):
    """oke-aditya/pytorch_cnn_trainer #28: the table holds ids alone, the files lie in train/ and end in .png."""
    data = opened(table(tmp_path, "id,label", lambda p, y, i: f"{prefix}{p},{y}", folder="train"))
    assert sum(data.splits.values()) == 12 and not data.skipped
    assert ("the files lie in train/" in data.notes) == (not prefix)


def test_an_id_of_two_files_is_listed(tmp_path: Path):
    file = table(tmp_path, "id,label", lambda p, y, i: f"{p},{y}")
    noise(0, 50).save(tmp_path / "p3.jpg")
    assert opened(file).skipped == (
        "line 5, p3: more than one file has this name (p3.jpg, p3.png)",
    )


def test_ids_with_points_are_not_cut(tmp_path: Path):
    file = table(tmp_path, "id,label", lambda p, y, i: f"{p}.v1.0,{y}")
    for path in list(tmp_path.glob("*.png")):
        path.rename(path.with_name(f"{path.stem}.v1.0.png"))
    assert sum(opened(file).splits.values()) == 12


def test_rows_of_files_that_are_elsewhere_are_listed(tmp_path: Path):
    """fastai/fastai #894: some files of the table had been moved; the others are read."""
    file = table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{y}")
    (tmp_path / "test").mkdir()
    (tmp_path / "p0.png").rename(tmp_path / "test" / "p0.png")
    assert opened(file).skipped == ("line 2, p0.png: no such file",)


def test_names_of_files_in_either_unicode_form(tmp_path: Path):
    file = table(
        tmp_path, "path,label", lambda p, y, i: f"{unicodedata.normalize('NFC', 'é')}{p}.png,{y}"
    )
    for path in list(tmp_path.glob("*.png")):
        path.rename(path.with_name(unicodedata.normalize("NFD", f"é{path.name}")))
    assert sum(opened(file).splits.values()) == 12


def test_a_table_with_tabs_by_its_usual_ending(tmp_path: Path):
    data = opened(
        table(tmp_path, "path\tlabel", lambda p, y, i: f"{p}.png\t{y}", name="labels.tsv")
    )
    assert data.classes == ("cat", "dog") and not data.facts.plain_folder


def test_groups_are_found_by_names_in_either_form(tmp_path: Path):
    file = table(tmp_path, "path,label", lambda p, y, i: f"é{p}.png,{y}")
    for path in list(tmp_path.glob("p*.png")):
        path.rename(path.with_name(unicodedata.normalize("NFD", f"é{path.name}")))
    (tmp_path / "groups.csv").write_text(
        "\n".join(f"é{p},g{i // 4}" for i, p in enumerate(f"p{i}.png" for i in range(12)))
    )
    assert opened(file, group=str(tmp_path / "groups.csv")).groups == 3


def test_images_of_a_table_may_be_anything_readable(tmp_path: Path):
    file = table(tmp_path, "path,label", lambda p, y, i: f"{p},{y}")
    for path in list(tmp_path.glob("*.png"))[:3]:
        Image.open(path).save(path.with_suffix(".webp"))
        path.unlink()
    assert sum(opened(file).splits.values()) == 12


# ── how tables are written ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
def test_separators(tmp_path: Path, separator: str):
    quote = '"' if separator == ", " else ""
    head = separator.join(f"{quote}{name}{quote}" for name in ("path", "label"))
    file = table(
        tmp_path, head, lambda p, y, i: f"{quote}{p}.png{quote}{separator}{quote}{y}{quote}"
    )
    assert opened(file).classes == ("cat", "dog")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str):
    """Excel's "Unicode text" is UTF-16."""
    file = table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{y}é")
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    file.write_bytes((mark + file.read_text("utf8").replace("\n", end)).encode(encoding))
    assert opened(file).classes == ("caté", "dogé")


def test_commas_at_the_ends_of_lines_are_no_fields(tmp_path: Path):
    data = opened(table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{y}{',' * (i % 3)}"))
    assert sum(data.splits.values()) == 12 and not data.skipped


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (lambda i: f"{i % 2}.0", ("0", "1")),
        (lambda i: f"{i % 2}" + ".0" * (i % 3 > 0), ("0", "1")),
        (lambda i: f"{i % 2 / 2}", ("0.0", "0.5")),
        (lambda i: f"0{i % 2}", ("00", "01")),
    ],
)
def test_whole_numbers_with_a_point_are_those_without(tmp_path: Path, label, classes):
    """pandas: a column of numbers with a gap is written as 1.0, 2.0."""
    assert (
        opened(table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{label(i)}")).classes
        == classes
    )


@pytest.mark.parametrize("one", ["1", "1.0"])
def test_a_column_for_each_class(tmp_path: Path, one: str):
    """As ISIC's and HAM10000's ground truth."""
    data = opened(
        table(
            tmp_path,
            "image,NV,MEL,BKL",
            lambda p, y, i: ",".join([p, *(one if k == i % 3 else "0.0" for k in range(3))]),
        )
    )
    assert data.classes == ("BKL", "MEL", "NV") and sum(data.splits.values()) == 12


def test_columns_with_several_ones_are_not_one_label(tmp_path: Path):
    with pytest.raises(DataError, match="no column label"):
        opened(table(tmp_path, "image,a,b", lambda p, y, i: f"{p},1,{i % 2}"))


# ── where the files lie ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "start",
    [
        "/kaggle/input/birds/train/",
        "C:\\Users\\me\\birds\\train\\",
        "../input/train/",
        "train\\",
        "./train/",
        "file:///mnt/data/train/",
    ],
)
def test_paths_of_another_machine(tmp_path: Path, start: str):
    """Absolute paths of where the table was written."""
    file = table(tmp_path, "path,label", lambda p, y, i: f"{start}{p}.png,{y}", folder="train")
    data = opened(file)
    assert sum(data.splits.values()) == 12 and not data.skipped


def test_names_as_web_pages_write_them(tmp_path: Path):
    file = table(
        tmp_path, "path,label", lambda p, y, i: f"my%20photos/{p}.PNG,{y}", folder="my photos"
    )
    assert sum(opened(file).splits.values()) == 12
    table(
        tmp_path,
        "path,label",
        lambda p, y, i: f"https://example.org/{p}.png,{y}",
        folder="my photos",
    )
    with pytest.raises(DataError, match="a web address: download the files"):
        opened(file)


def test_a_file_of_the_exact_name_comes_first(tmp_path: Path):
    file = table(tmp_path, "path,label", lambda p, y, i: f"{p}.png,{y}")
    noise(1, 50).save(tmp_path / "a%20b.png")
    noise(1, 51).save(tmp_path / "a b.png")
    with file.open("a") as out:
        out.write("\na%20b.png,dog")
    data = opened(file)
    assert "a%20b.png" in {name for names in data.files.values() for name in names}
