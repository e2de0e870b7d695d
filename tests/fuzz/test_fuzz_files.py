"""Files: weights, pictures, folders, tables, archives, prices."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from tests.fuzz.cases import damaged, fuzz, one_line_or, spoilt, text
from tlnb.core.costs import prices
from tlnb.core.data.archive import unpacked
from tlnb.core.data.dataset import open_data
from tlnb.core.data.decoding import decode, look_over
from tlnb.core.data.request import DataRequest
from tlnb.core.data.table import list_table
from tlnb.core.models.weights import read_state
from tlnb.core.runtime.errors import TLError, one_line
from tlnb.display import cards
from tlnb.session import Session

TENSORS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "a.bias": torch.zeros(3),
    "n": torch.tensor(3),
}


@fuzz
@given(data=st.data())
def test_weight_files(place: Path, data: st.DataObject):
    kind = data.draw(st.sampled_from(["bytes", "header", "pth", "objects"]))
    file = place / ("w.safetensors" if kind in ("bytes", "header") else "w.pth")
    whole = save(TENSORS, {"tlnb": "{}", "x": "y"})
    if kind == "bytes":
        content = damaged(data.draw, whole)
    elif kind == "header":
        (size,) = struct.unpack("<Q", whole[:8])
        header = data.draw(spoilt(whole[8 : 8 + size].decode())).encode(errors="replace")
        content = struct.pack("<Q", len(header)) + header + whole[8 + size :]
    else:
        out = io.BytesIO()
        held: dict[Any, Any] = {
            1: torch.zeros(2),
            "big": torch.zeros(1).expand(10**13),
            "sparse": torch.eye(3).to_sparse(),
            "none": None,
            "text": "x",
            "list": [torch.zeros(1)],
            "half": torch.zeros(2).half(),
            "complex": torch.zeros(2, dtype=torch.complex64),
        }
        chosen = (
            {k: held[k] for k in data.draw(st.lists(st.sampled_from(list(held)), max_size=2))}
            if kind == "objects"
            else TENSORS
        )
        torch.save(chosen, out)
        content = out.getvalue() if kind == "objects" else damaged(data.draw, out.getvalue())
    file.write_bytes(content)
    state = one_line_or(lambda: read_state(file))
    assert state is None or all(
        isinstance(k, str) and v.is_contiguous() | True for k, v in state.items()
    )


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "it ran")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl"])
def test_no_pickle_is_executed(tmp_path: Path, suffix: str):
    import pickle

    mark, file = tmp_path / "ran", tmp_path / f"evil{suffix}"
    for content in ({"a": Evil(mark)}, {"state_dict": {"w": torch.zeros(2), "e": Evil(mark)}}):
        torch.save(content, file)
        with pytest.raises(TLError, match="damaged, or not a state_dict"):
            Session().load("glyphnet", file)
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(TLError, match="damaged, or not a state_dict"):
            Session().load("glyphnet", file)
    assert not mark.exists()


def picture_bytes(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)).convert(
        mode
    ).save(out, kind)
    return out.getvalue()


PICTURES = {
    f"x.{end}": picture_bytes(kind, mode)
    for end, kind, mode in (
        ("png", "PNG", "RGB"),
        ("jpg", "JPEG", "CMYK"),
        ("gif", "GIF", "P"),
        ("bmp", "BMP", "L"),
        ("tif", "TIFF", "RGBA"),
        ("webp", "WEBP", "RGB"),
        ("ppm", "PPM", "RGB"),
    )
}


@fuzz
@given(name=st.sampled_from(list(PICTURES)), data=st.data())
def test_image_files(place: Path, name: str, data: st.DataObject):
    file = place / name
    file.write_bytes(PICTURES[name])
    assert isinstance(decode(file, 16), torch.Tensor)
    file.write_bytes(damaged(data.draw, PICTURES[name]))
    found = decode(file, 16)
    assert (
        found.shape == (3, 16, 16)
        if isinstance(found, torch.Tensor)
        else one_line(found) == found != ""
    )
    look_over([file])


@fuzz
@given(names=st.lists(text, min_size=1, max_size=4), inner=text, extra=text)
def test_folder_names(place: Path, names: list[str], inner: str, extra: str):
    top = place / "folder"
    shutil.rmtree(top, ignore_errors=True)
    made = 0
    for name in [*names, "good", "better"]:
        for i in range(3):
            made += _laid(
                os.fsencode(top) + b"/" + _as_name(name),
                _as_name(f"{i}{inner}.png"),
                PICTURES["x.png"],
            )
        _laid(
            os.fsencode(top) + b"/" + _as_name(name), _as_name(extra), b"<script>alert(1)</script>"
        )
    data = one_line_or(lambda: open_data(top, request=DataRequest(source=str(top)), edge=8))
    assert data is not None or set(names) & {"good", "better", "train"} or made < 6
    if data is not None:
        assert all(one_line(name) == name for name in (data.name, *data.classes))
        shown = cards.HTML[type(data)](data) if made < 12 else ""
        shown.encode()
        assert (
            "<script" not in shown
            and "<img src=x" not in shown
            and "\n" not in one_line(repr(data))
        )


def _as_name(name: str) -> bytes:
    return name.replace("/", "").encode(
        "utf8", "surrogateescape" if "\udc80" <= max(name, default="a") <= "\udcff" else "replace"
    )


def _laid(folder: bytes, name: bytes, content: bytes) -> int:
    """A file, where the system allows such a name."""
    try:
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - names need not be text
        with open(folder + b"/" + name, "wb") as file:  # noqa: PTH123
            file.write(content)
        return 1
    except (OSError, ValueError):
        return 0


cells = st.one_of(
    text, st.sampled_from(["path", "label", "split", "x.png", "a", "b", "train", "1", "²"])
)

rows = st.lists(st.lists(cells, max_size=4), max_size=6).map(
    lambda found: "\n".join(",".join(row) for row in [["path", "label"], *found])
)


@fuzz
@given(table=st.one_of(rows, st.text(',;\t"\npathlbeo.1²-\r\0', max_size=40), text))
@example(table="path,label\nx.png,²\nx.png,1")
@example(table="path,label\nx.png,--5\nx.png,3")
def test_tables(place: Path, table: str):
    (place / "x.png").write_bytes(PICTURES["x.png"])
    file = place / "t.csv"
    file.write_text(table, "utf8", "surrogatepass")
    found = one_line_or(lambda: list_table(file))
    if found is not None:
        assert len(found.paths) == len(found.class_of) and all(
            one_line(c) == c != "" for c in found.classes
        )
        assert all(one_line(s) == s for s in found.skipped)


LEADING_OUT = ("../\x1b[31mred\n2nd line", "/\u2028", "../" + "\x1b" * 80, "C:\\a\nb")


def test_refused_entries_of_a_zip_file_are_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name in (*LEADING_OUT, "a/0.png", "a/1.png", "b/0.png", "b/1.png"):
            file.writestr(name, PICTURES["x.png"])
    skipped = open_data(tmp_path / "x.zip", edge=8).skipped
    assert len(skipped) == len(LEADING_OUT) and all(one_line(said) == said for said in skipped)
    assert skipped[0] == "../\\x1b[31mred\\n2nd line: leads out of the archive"


@fuzz
@given(data=st.data())
def test_zip_files(place: Path, data: st.DataObject):
    out = io.BytesIO()
    with zipfile.ZipFile(
        out,
        "w",
        data.draw(
            st.sampled_from(
                [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
            )
        ),
    ) as file:
        for name in data.draw(st.lists(st.one_of(text, st.sampled_from(LEADING_OUT)), max_size=3)):
            file.writestr(
                zipfile.ZipInfo(name.encode(errors="replace").decode()[:200]), PICTURES["x.png"]
            )
        for name in ("a/0.png", "a/1.png", "b/0.png"):
            file.writestr(name, PICTURES["x.png"])
    content = out.getvalue()
    archive, before = place / "x.zip", {"x.zip", *(p.name for p in place.iterdir())}
    archive.write_bytes(damaged(data.draw, content) if data.draw(st.booleans()) else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_CACHE", str(place / "cache"))
        found = one_line_or(lambda: unpacked(archive))
    if found is not None:
        assert all(
            p.resolve().is_relative_to(place.resolve() / "cache") for p in found[0].rglob("*")
        )
        assert all(one_line(said) == said and len(said) < 120 for said in found[1])
    assert {p.name for p in place.iterdir()} <= before | {"cache"}
    shutil.rmtree(place / "cache", ignore_errors=True)


@fuzz
@given(data=st.data())
def test_tables_of_prices(place: Path, data: st.DataObject):
    whole = '[[price]]\ndevice = "cpu"\nper = "thread"\nper_hour = 0.5\nas_of = 2026-01-01\nsource = "x"\n'
    deep = st.sampled_from(
        ["price = " + "[" * 5000, "price = 3", "price = [3]", "price = {}", "[price]", "[[price]]"]
    )
    keys, odd = (
        st.sampled_from(["device", "per", "per_hour", "as_of", "source"]),
        st.sampled_from(
            ["3", "inf", "nan", "true", "[]", '"("', "{}", "1e999", "-1", "9" * 4000, '"""\n"""']
        ),
    )
    changed = st.builds(
        lambda key, v: "\n".join(
            f"{key} = {v}" if r.startswith(f"{key} ") else r for r in whole.splitlines()
        ),
        keys,
        odd,
    )
    file = place / "p.toml"
    file.write_text(
        data.draw(st.one_of(deep, changed, text, st.builds(lambda t: whole + t, text))),
        "utf8",
        "surrogatepass",
    )
    prices._read.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_PRICES", str(file))
        found = one_line_or(lambda: prices.list_price("cpu", "some processor", 2))
    assert found is None or 0 <= found.per_hour < float("inf")
