"""Whatever is read from outside: it is taken, or refused in one line. Anything else that is raised is a bug.

Every test draws `TLNB_FUZZ` cases (default: 100, the same each time). `TLNB_FUZZ=10000 pytest tests/test_fuzz.py` looks further.
"""

from __future__ import annotations

import ast
import copy
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from tlnb.core import kept, prices
from tlnb.core.archive import unpacked
from tlnb.core.checkpoint import read
from tlnb.core.code.case import Script
from tlnb.core.data import open_data
from tlnb.core.decoding import decode, look_over
from tlnb.core.edit import is_literal, modules_matching, names_in
from tlnb.core.errors import TLError, UsageError, one_line
from tlnb.core.groups import _by_pattern
from tlnb.core.lines import line
from tlnb.core.options import parse_rates
from tlnb.core.plan import Plan, match
from tlnb.core.prices import Price, parse_budget, parse_price
from tlnb.core.record import Run
from tlnb.core.recorded import SCHEMA, read_recorded
from tlnb.core.request import DataRequest
from tlnb.core.save import Header
from tlnb.core.table import list_table
from tlnb.core.weights import read_state
from tlnb.display import cards
from tlnb.jobs import carry_out
from tlnb.keeper import restore
from tlnb.magics import TLMagics, tokens
from tlnb.session import Session

CASES = int(os.environ.get("TLNB_FUZZ", "100"))
fuzz = settings(
    max_examples=CASES, deadline=None, derandomize="TLNB_FUZZ" not in os.environ, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

NASTY = (
    "", " ", "\0", "\n", "a\nb", "\r", "\x1b[2J", "\u2028", "\ud800", "{}", "{0}", "%s", "%n", "$x", "${x}", "'", '"', '"""',
    "\\", "\\N{x}", "-", "--", "-rf", "..", "../x", "/", "~", "~nobody", ".", "*", "[", "[z-a]", "(", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "$\\frac$", "=", ";", "#", "?", "!ls", "; import os", "aux", "x" * 300, "é" * 200, "١٢", "²",
    "--5", "1e999", "nan", "-inf", "9" * 5000, "digits", "head", "layer1", "layer1..layer3", "none",
)  # fmt: skip
text = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.text("aZ09.-_*?[]()!=,;:'\"\\/{}$%#<>&\n\t ", max_size=20)
)
number = st.one_of(st.sampled_from([-1, 0, 1, 2, 3, 10**9, 10**30, -(10**20)]), st.floats(), st.integers())
leaf = st.one_of(st.none(), st.booleans(), number, text)
value = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)


def one_line_or(call: Callable[[], Any]) -> Any:
    """What the call gives; None where it is refused in one line."""
    try:
        return call()
    except TLError as error:
        said = str(error)
        assert said and len(said.splitlines()) == 1 and one_line(said) == said, said
        said.encode()
        return None


@pytest.fixture(scope="module")
def trained() -> Session:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=1)
    return session


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tlnb-fuzz-") as folder:
        yield Path(folder)


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def places(found: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON's values."""
    yield at
    pairs = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*at, key))


@st.composite
def spoilt(draw: Any, record: str) -> str:
    """A JSON text with some of its values replaced, left out or renamed; or with some of its characters changed; or deep."""
    how = draw(st.sampled_from(["values", "values", "values", "text", "deep"]))
    if how == "deep":
        return draw(st.sampled_from(["[", '{"a":', '{"schema": 1, "plan": ['])) * draw(st.sampled_from([10, 20_000]))
    if how == "text":
        found = list(record)
        for _ in range(draw(st.integers(1, 4))):
            found[draw(st.integers(0, len(found) - 1))] = draw(st.characters(codec="utf-8"))
        return "".join(found)
    found = json.loads(record)
    for _ in range(draw(st.integers(1, 3))):
        inner = found
        *at, last = draw(st.sampled_from([p for p in places(found) if p] or [("x",)]))
        for key in at:
            inner = inner[key]
        match draw(st.sampled_from(["replace", "replace", "drop", "add"])):
            case "replace":
                inner[last] = draw(value)
            case "drop":
                del inner[last]
            case _ if isinstance(inner, dict):
                inner[draw(text)] = draw(value)
        if not isinstance(found, dict) or not found:
            break
    return json.dumps(found)


def record_of(session: Session) -> str:
    return session.runs[0].to_json()


@fuzz
@given(data=st.data())
def test_records_of_runs(trained: Session, data: st.DataObject):
    run = one_line_or(lambda: Run.from_json(data.draw(spoilt(record_of(trained)))))
    if run is not None:
        assert Run.from_json(run.to_json()).to_json() == run.to_json()
        assert "\n" not in one_line(repr(run)) and "<script" not in cards.run_card(run)


@fuzz
@given(data=st.data())
def test_plans(trained: Session, data: st.DataObject):
    spoiled = data.draw(spoilt(json.dumps(trained.plan.to_json())))
    plan = one_line_or(lambda: Plan.from_json(_parsed(spoiled)))
    if plan is not None:
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan or "NaN" in spoiled or "nan" in repr(plan)
        assert "<script" not in cards.plan_card(plan)


def _parsed(record: str) -> Any:
    from tlnb.core.values import parse

    try:
        return parse(record)
    except ValueError:
        return None


@fuzz
@given(data=st.data())
def test_headers_of_saved_runs(trained: Session, data: st.DataObject):
    model = trained.model
    whole = Header(model.origin, model.transform, trained.runs[0].classes, trained.runs[0]).to_json()
    header = one_line_or(lambda: Header.from_json(data.draw(spoilt(whole)), "x.safetensors"))
    if header is not None:
        ast.parse(f"MEAN, STD = {header.transform.mean}, {header.transform.std}\nSIZE = {header.transform.size}")


@fuzz
@given(data=st.data())
def test_jobs(trained: Session, place: Path, data: st.DataObject):
    whole, file = place / "job.json", place / "spoilt.json"
    if not whole.exists():
        trained.save(job=whole, epochs=1)
    file.write_text(data.draw(spoilt(whole.read_text())), "utf8", "surrogatepass")
    session = Session()
    session._done = lambda *_: (_ for _ in ()).throw(UsageError("far enough"))  # type: ignore[method-assign]
    one_line_or(lambda: carry_out(session, file, place / "out"))


@fuzz
@given(data=st.data())
def test_recorded_runs(trained: Session, place: Path, data: st.DataObject):
    facts, file = trained.dataset, place / "recorded.json"
    about = {"name": facts.name, "counts": facts.counts, "splits": facts.splits, "skipped": ["a: hidden file"]}
    whole = json.dumps(
        {"schema": SCHEMA, "recorded": "2026-01-31", "typed": ["%tl_train"], "notes": ["drawn"], "data": about,
         "model": "glyphnet", "runs": [json.loads(record_of(trained))]}
    )  # fmt: skip
    file.write_text(data.draw(spoilt(whole)), "utf8", "surrogatepass")
    found = one_line_or(lambda: read_recorded(file))
    if found is not None:
        assert found.runs and repr(found) and found.compare().rows
        assert "<script" not in cards.comparison_card(found.compare())


@fuzz
@given(data=st.data())
def test_sessions(trained: Session, place: Path, data: st.DataObject):
    """What a session left behind, changed by someone who gets the checksum right."""
    import zlib

    folder = place / "session"
    if not folder.exists():
        shutil.copytree(trained._keeper.home.folder, folder)
        (folder / "lock").unlink(missing_ok=True)
        (folder / "whole.json").write_text((folder / "session.json").read_text())
    outer = json.loads((folder / "whole.json").read_text())
    if data.draw(st.booleans()):
        record = data.draw(spoilt(outer["session"]))
        outer |= {"session": record, "crc32": zlib.crc32(record.encode(errors="replace"))}
        (folder / "session.json").write_text(json.dumps(outer))
    else:
        (folder / "session.json").write_text(data.draw(spoilt(json.dumps(outer))), "utf8", "surrogatepass")
    session = Session()
    try:
        name = one_line_or(lambda: restore(session, folder, False, {}, None))
        if name is not None or session.plan is not None:
            one_line_or(session.undo)
            assert all(one_line(said) == said for said in session.script().splitlines())
    finally:
        session._keeper.close()


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = sorted({o for n in vars(TLMagics) if n.startswith("tl") and hasattr(vars(TLMagics)[n], "parser")
                  for a in vars(TLMagics)[n].parser._actions for o in a.option_strings if o.startswith("--")})  # fmt: skip
MAGICS = sorted(n for n in vars(TLMagics) if n.startswith("tl"))
HEAVY = {"tl_models"}  # right, and slow: a case in twenty
words = st.one_of(st.sampled_from(OPTIONS), text, number.map(str), st.sampled_from(
    ["digits", "symbols", "glyphnet", "head", "partial", "layer2", "before:head", "after:layer1", "nn.Dropout(0.2)",
     "nn.Identity()", "none", "light", "2", "3", "0.1", "layer4=0.01", "fp32", "sgd", "small"]))  # fmt: skip


@fuzz
@given(magic=st.sampled_from(MAGICS), typed=st.lists(words, max_size=6), more=st.integers(0, 19))
@example(magic="tl_data", typed=["digits", "--seed", "-1"], more=0)
@example(magic="tl_save", typed=["--job", "\0"], more=0)
@example(magic="tl_train", typed=["--budget", "9" * 400 + "h"], more=0)
def test_magic_lines(trained: Session, place: Path, magic: str, typed: list[str], more: int):
    if (magic in HEAVY and more) or any("/" in word and not word.strip("/.~") for word in typed):
        return  # not the whole disk
    session, shell = Session(), Shell()
    if more > 3:
        for name in ("dataset", "model", "plan", "_anatomy", "_parts"):
            setattr(session, name, getattr(trained, name))
        session.runs, session._networks, session._facts = (
            list(trained.runs),
            dict(trained._networks),
            dict(trained._facts),
        )
        session._keeper.jobs, session._asked = dict(trained._keeper.jobs), dict(trained._asked)
    method = getattr(TLMagics(shell, session), magic)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for heavy in ("tlnb.session.train", "tlnb.core.forecast.forecast", "tlnb.core.tune.tune", "tlnb.core.advise.advise",
                      "tlnb.core.look.features", "torch.hub.download_url_to_file"):  # fmt: skip
            patch.setattr(heavy, _far_enough)
        one_line_or(lambda: method(" ".join(typed)))
    session._keeper.close()


def _far_enough(*_: Any, **__: Any) -> None:
    raise UsageError("far enough: what follows takes time")


class Shell:
    """As much of IPython as magics ask for."""

    user_ns: dict[str, Any] = {"n": 3}  # noqa: RUF012
    kernel = None
    parent = None


@fuzz
@given(said=st.lists(text, min_size=1, max_size=3), option=text)
@example(said=["a\n!touch pwned"], option="x")
@example(said=["x; import os"], option='"')
def test_what_is_written_for_a_cell_says_what_was_called(said: list[str], option: str):
    written = line("tl_data", *said, group=option, seed=3)
    assert len(written.splitlines()) == 1 and one_line(written) == written
    if written.startswith("%"):
        found, silent = tokens(written.removeprefix("%tl_data "))
        assert found == [*said, "--group", option, "--seed", "3"] and not silent
        assert not set(written) & set("{}$") and written[-1] not in "?\\;"
    else:
        call = ast.parse(written, mode="eval").body
        assert isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.data"
        assert [ast.literal_eval(a) for a in call.args] == said
        assert {k.arg: ast.literal_eval(k.value) for k in call.keywords} == {"group": option, "seed": 3}


@fuzz
@given(pattern=text)
@example(pattern="layer?" + "*" * 200 + "x")
def test_layer_patterns(trained: Session, pattern: str):
    found = one_line_or(lambda: match(trained._anatomy, [pattern]))
    assert found is None or found <= set(trained._anatomy.names)
    one_line_or(lambda: modules_matching(trained.model.module, pattern, found or set()))


@fuzz
@given(code=st.one_of(text, st.text("n.Lieardopu(),=1 2*+-[]'in_features_classes\"#\n", max_size=30),
                      st.sampled_from(["(" * 5000, "-" * 20_000 + "1", "nn.Linear(9**9**9, 1)", "nn.Linear(1, 1, [0]*10**12)",
                                       "nn.Linear(10**6*1, 10**6)", "nn." * 5000 + "x", "[" * 150 + "]" * 150])))  # fmt: skip
def test_code_of_edits(trained: Session, code: str):
    harmless = is_literal(code)
    one_line_or(lambda: names_in(code))
    if harmless:
        session = Session()
        session.load("glyphnet")
        one_line_or(lambda: session.add("before:head", code))
        session._keeper.close()


@fuzz
@given(pattern=text, rates=text, price=st.one_of(text, st.text("0123456789.usdeh/ min€", max_size=12)))
def test_short_texts(pattern: str, rates: str, price: str):
    one_line_or(lambda: _by_pattern(pattern, ["a/b_1.png"]))
    one_line_or(lambda: parse_rates(rates))
    found = one_line_or(lambda: parse_price(price))
    assert found is None or 0 <= found.per_hour < float("inf")
    seconds = one_line_or(lambda: parse_budget(price, Price(0.5)))
    assert seconds is None or 0 < seconds < float("inf")


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(draw: Any, whole: bytes) -> bytes:
    """Bytes changed, cut off, put in or doubled."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["change", "change", "cut", "insert", "zeros"])):
            case "change" if found:
                found[at] ^= draw(st.integers(1, 255))
            case "cut":
                del found[at:]
            case "insert":
                found[at:at] = draw(st.binary(max_size=9))
            case _:
                found[at : at + 16] = bytes(len(found[at : at + 16]))
    return bytes(found)


TENSORS = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(3)}


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
        held: dict[Any, Any] = {1: torch.zeros(2), "big": torch.zeros(1).expand(10**13), "sparse": torch.eye(3).to_sparse(),
                                "none": None, "text": "x", "list": [torch.zeros(1)], "half": torch.zeros(2).half(),
                                "complex": torch.zeros(2, dtype=torch.complex64)}  # fmt: skip
        chosen = (
            {k: held[k] for k in data.draw(st.lists(st.sampled_from(list(held)), max_size=2))}
            if kind == "objects"
            else TENSORS
        )
        torch.save(chosen, out)
        content = out.getvalue() if kind == "objects" else damaged(data.draw, out.getvalue())
    file.write_bytes(content)
    state = one_line_or(lambda: read_state(file))
    assert state is None or all(isinstance(k, str) and v.is_contiguous() | True for k, v in state.items())


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
        with pytest.raises(TLError, match="damaged, or no state_dict"):
            Session().load("glyphnet", file)
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(TLError, match="damaged, or no state_dict"):
            Session().load("glyphnet", file)
    assert not mark.exists()


def picture_bytes(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)).convert(mode).save(
        out, kind
    )
    return out.getvalue()


PICTURES = {f"x.{end}": picture_bytes(kind, mode) for end, kind, mode in (
    ("png", "PNG", "RGB"), ("jpg", "JPEG", "CMYK"), ("gif", "GIF", "P"), ("bmp", "BMP", "L"), ("tif", "TIFF", "RGBA"),
    ("webp", "WEBP", "RGB"), ("ppm", "PPM", "RGB"))}  # fmt: skip


@fuzz
@given(name=st.sampled_from(list(PICTURES)), data=st.data())
def test_image_files(place: Path, name: str, data: st.DataObject):
    file = place / name
    file.write_bytes(PICTURES[name])
    assert isinstance(decode(file, 16), torch.Tensor)
    file.write_bytes(damaged(data.draw, PICTURES[name]))
    found = decode(file, 16)
    assert found.shape == (3, 16, 16) if isinstance(found, torch.Tensor) else one_line(found) == found != ""
    look_over([file])


@fuzz
@given(names=st.lists(text, min_size=1, max_size=4), inner=text, extra=text)
def test_folder_names(place: Path, names: list[str], inner: str, extra: str):
    top = place / "folder"
    shutil.rmtree(top, ignore_errors=True)
    made = 0
    for name in [*names, "good", "better"]:
        for i in range(3):
            made += _laid(os.fsencode(top) + b"/" + _as_name(name), _as_name(f"{i}{inner}.png"), PICTURES["x.png"])
        _laid(os.fsencode(top) + b"/" + _as_name(name), _as_name(extra), b"<script>alert(1)</script>")
    data = one_line_or(lambda: open_data(top, request=DataRequest(str(top)), edge=8))
    assert data is not None or set(names) & {"good", "better", "train"} or made < 6
    if data is not None:
        assert all(one_line(name) == name for name in (data.name, *data.classes))
        shown = cards.HTML[type(data)](data) if made < 12 else ""
        shown.encode()
        assert "<script" not in shown and "<img src=x" not in shown and "\n" not in one_line(repr(data))


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


cells = st.one_of(text, st.sampled_from(["path", "label", "split", "x.png", "a", "b", "train", "1", "²"]))
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
        assert len(found.paths) == len(found.class_of) and all(one_line(c) == c != "" for c in found.classes)
        assert all(one_line(s) == s for s in found.skipped)


LEADING_OUT = ("../\x1b[31mred\n2nd line", "/\u2028", "../" + "\x1b" * 80, "C:\\a\nb")


def test_refused_entries_of_a_zip_file_are_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
        data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])),
    ) as file:
        for name in data.draw(st.lists(st.one_of(text, st.sampled_from(LEADING_OUT)), max_size=3)):
            file.writestr(zipfile.ZipInfo(name.encode(errors="replace").decode()[:200]), PICTURES["x.png"])
        for name in ("a/0.png", "a/1.png", "b/0.png"):
            file.writestr(name, PICTURES["x.png"])
    content = out.getvalue()
    archive, before = place / "x.zip", {"x.zip", *(p.name for p in place.iterdir())}
    archive.write_bytes(damaged(data.draw, content) if data.draw(st.booleans()) else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_CACHE", str(place / "cache"))
        found = one_line_or(lambda: unpacked(archive))
    if found is not None:
        assert all(p.resolve().is_relative_to(place.resolve() / "cache") for p in found[0].rglob("*"))
        assert all(one_line(said) == said and len(said) < 120 for said in found[1])
    assert {p.name for p in place.iterdir()} <= before | {"cache"}
    shutil.rmtree(place / "cache", ignore_errors=True)


@fuzz
@given(data=st.data())
def test_tables_of_prices(place: Path, data: st.DataObject):
    whole = '[[price]]\ndevice = "cpu"\nper = "thread"\nper_hour = 0.5\nas_of = 2026-01-01\nsource = "x"\n'
    deep = st.sampled_from(["price = " + "[" * 5000, "price = 3", "price = [3]", "price = {}", "[price]", "[[price]]"])
    keys, odd = st.sampled_from(["device", "per", "per_hour", "as_of", "source"]), st.sampled_from(
        ["3", "inf", "nan", "true", "[]", '"("', "{}", "1e999", "-1", "9" * 4000, '"""\n"""'])  # fmt: skip
    changed = st.builds(
        lambda key, v: "\n".join(f"{key} = {v}" if r.startswith(f"{key} ") else r for r in whole.splitlines()),
        keys,
        odd,
    )
    file = place / "p.toml"
    file.write_text(
        data.draw(st.one_of(deep, changed, text, st.builds(lambda t: whole + t, text))), "utf8", "surrogatepass"
    )
    prices._read.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_PRICES", str(file))
        found = one_line_or(lambda: prices.list_price("cpu", "some processor", 2))
    assert found is None or 0 <= found.per_hour < float("inf")


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


@fuzz
@given(data=st.data())
def test_kept_arrays_are_never_read_when_damaged(place: Path, data: st.DataObject):
    file, array = place / "kept.npy", np.arange(60, dtype=np.float32).reshape(5, 12)
    kept.write(file, array.shape, array.dtype, [array[:2], array[2:]], lambda: {"a": 1})
    whole = file.read_bytes()
    assert kept.read(file) == {"a": 1}
    file.write_bytes(damaged(data.draw, whole))
    changed = file.read_bytes() != whole
    found = kept.read(file)
    assert (found is None) == changed and file.exists() != changed


@fuzz
@given(data=st.data())
def test_checkpoints_are_never_read_when_damaged(trained: Session, place: Path, data: st.DataObject):
    whole = trained._keeper.home.run_file("head").read_bytes()
    file = place / "run.safetensors"
    file.write_bytes(damaged(data.draw, whole))
    if file.read_bytes() != whole:
        sound = one_line_or(lambda: read(file))
        if sound is not None:  # what was changed carries nothing: white space in the header
            about, found = read(trained._keeper.home.run_file("head"))
            assert sound[0] == about and sound[1] == found
            assert all(torch.equal(sound[1].tensors[k], t) for k, t in found.tensors.items())


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────────────


def skeleton(code: str) -> str:
    """A script's syntax with all texts and all lists of texts blank."""

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant("") if isinstance(node.value, str) else node

    return ast.dump(Blank().visit(ast.parse(code)))


@fuzz
@given(name=text, source=text, first=text, second=text, run=text, way=st.sampled_from(["folder", "table"]))
@example(name="x", source="x", first="9" * 300, second="b", run="x", way="folder")
@example(name='x"; import os; os.system("ls"); "', source="'''", first='"""', second="\\", run="\\x\n", way="table")
def test_no_name_becomes_code(trained: Session, name: str, source: str, first: str, second: str, run: str, way: str):
    def script(name: str, source: str, classes: tuple[str, str], run: str) -> Script:
        facts = copy.copy(trained.dataset.facts)
        request = DataRequest(f"{source}.csv" if way == "table" else f"./{source}/")
        facts = type(facts)(name, classes, {"train": 20, "test": 10}, 32, request)
        made = copy.copy(trained.runs[0])
        for key, new in (("name", run), ("started_from", run), ("data", name)):
            object.__setattr__(made, key, new)
        case = (trained.model, trained._anatomy, facts, made.plan, made.options, "fp32", made)
        return trained._script_of(*case)

    written = one_line_or(lambda: script(name, source, (first, second), run))
    named, listed = (script("plain", "folder", (first, "b"), "first") for first in ("a", "a" * 300))
    assert skeleton(written) in (skeleton(named), skeleton(listed))  # long names are read from the folder instead
