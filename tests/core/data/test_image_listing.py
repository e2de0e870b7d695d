"""Tables that name files and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.photos import opened, reasons, two_classes
from tlnb.core.runtime.errors import DataError


def test_a_table_names_files_labels_splits_and_groups(tmp_path: Path):
    two_classes(tmp_path / "img", 5)
    lines = ["file;class;split;plant"]
    lines += [
        f"img/{c}/{i}.png;{c};{'test' if i > 3 else 'train'};p{i}" for c in "ab" for i in range(5)
    ]
    (tmp_path / "t.csv").write_text(
        "\n".join([*lines, "img/a/9.png;a;train;p9", "img/a/0.png;a", "img/a/0.png;c;test;p0"])
    )
    data = opened(tmp_path / "t.csv")
    assert (
        data.name == "t" and data.splits == {"train": 8, "test": 2} and data.classes == ("a", "b")
    )
    assert list(reasons(data).values()) == [
        "no such file",
        "2 fields instead of 4",
        "1 images of a class that is not in train",
    ]
    assert opened(tmp_path / "t.csv", group="plant").groups == 5


def test_lines_of_a_table_are_counted_as_editors_do(tmp_path: Path):
    two_classes(tmp_path / "img", 3)
    rows = [f"img/{c}/{i}.png,{c}" for c in "ab" for i in range(3)]
    (tmp_path / "t.csv").write_text(
        "\n".join(
            ["", "path,label", rows[0], "", "   ", "img/a/gone.png,a", *rows[1:], "", "img/b/0.png"]
        )
    )
    assert opened(tmp_path / "t.csv").skipped == (
        "line 6, img/a/gone.png: no such file",
        "line 13: 1 fields instead of 2",
    )
    (tmp_path / "t.csv").write_text("path,label,split\n\n\nimg/a/0.png,a,later")
    with pytest.raises(
        DataError, match="line 4: split must be one of train, val and test, got 'later'"
    ):
        opened(tmp_path / "t.csv")


def test_a_table_of_missing_files_says_so(tmp_path: Path):
    (tmp_path / "t.csv").write_text(
        "path,label\n" + "\n".join(f"img/{i}.png,{'ab'[i % 2]}" for i in range(40))
    )
    with pytest.raises(
        DataError, match=r"skipped: line 2, img/0.png: no such file and 39 more\)"
    ) as error:
        opened(tmp_path / "t.csv")
    assert "folder" not in str(error.value) and "\n" not in str(error.value)


def test_images_that_cannot_be_read_are_why_a_class_is_too_small(tmp_path: Path):
    top = two_classes(tmp_path)
    for i in range(5):
        (top / "a" / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(
        DataError, match=r"class 'a' has 1 images.*not read: a.0.png: cannot be read .* and 4 more"
    ):
        opened(top, per_class=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a,b\n1,2",
            "no columns path and label .it has a, b; looked for path: path, .*file.*label: label",
        ),
        ("path,label\nx.png,a", "at least two classes"),
        ("", "it has nothing"),
        (
            "path,label,split\nimg/a/0.png,a,later",
            "split must be one of train, val and test, got 'later'",
        ),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, text: str, words: str):
    two_classes(tmp_path / "img", 2)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        opened(tmp_path / "t.csv")
    assert "\n" not in str(error.value)
