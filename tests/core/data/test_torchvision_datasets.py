"""torchvision's data sets by name: files in the sets' own formats, downloads from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from tests.conftest import picture
from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.request import DataRequest
from tlnb.core.data.torchvision_datasets import ARRAYS, LIBRARY, library_name
from tlnb.core.runtime.errors import DataError, TLError, UsageError

RNG = np.random.default_rng(0)


def opened(name: str, root: Path, edge: int = 32, **amounts: object) -> DataSet:
    return open_data(name, request=DataRequest(source=name, root=str(root), **amounts), edge=edge)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class Server:
    """Answers with what it holds; a path in `short` is cut, one in `status` is refused."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.short: set[str] = set()
        self.asked: list[str] = []
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                held.asked.append(f"{self.command} {name}")
                if name not in held.files:
                    self.send_error(404)
                    return
                data = held.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data[: len(data) // 2] if name in held.short else data)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def idx(array: np.ndarray) -> bytes:
    """An array as MNIST's files hold it."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(server: Server, monkeypatch) -> Server:
    """FashionMNIST, 60 images to train on and 20 to test, on the server."""
    resources = []
    for name, count in (("train", 60), ("t10k", 20)):
        images = RNG.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = gzip.compress(idx(array))
            server.files[f"{name}-{kind}-ubyte.gz"] = data
            resources.append((f"{name}-{kind}-ubyte.gz", md5(data)))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    return server


def test_a_set_is_downloaded_once_with_progress(fashion: Server, tmp_path: Path):
    steps: list[tuple[str, int, int]] = []
    request = DataRequest(source="fashion-mnist", root=str(tmp_path))
    data = open_data("fashion-mnist", request=request, telling=lambda *s: steps.append(s))
    assert (
        data.name == "FashionMNIST"
        and data.splits == {"train": 60, "test": 20}
        and len(data.classes) == 10
    )
    assert data.images["test"].shape == (20, 3, 28, 28) and data.classes[0] == "T-shirt/top"
    assert {step[0] for step in steps} == {"downloading"}
    assert not data.from_files and any("the data set's own" in words for words in data.notes)
    before = len(fashion.asked)
    assert open_data("FashionMNIST", request=request).fingerprint == data.fingerprint
    assert len(fashion.asked) == before


@pytest.mark.parametrize("trouble", ["missing", "cut", "wrong"])
def test_a_download_that_fails_is_one_line_and_can_be_tried_again(
    fashion: Server, tmp_path: Path, trouble: str
):
    name = "t10k-images-idx3-ubyte.gz"
    whole = fashion.files[name]
    if trouble == "missing":
        del fashion.files[name]
    elif trouble == "cut":
        fashion.short.add(name)
    else:
        fashion.files[name] = whole[:-1] + b"x"
    words = {"missing": "404", "cut": "bytes arrived", "wrong": "wrong hash"}[trouble]
    with pytest.raises(
        DataError, match=f"FashionMNIST could not be downloaded: .*{words}.*--root FOLDER"
    ) as error:
        opened("FashionMNIST", tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob(name))
    fashion.files[name] = whole
    fashion.short.clear()
    assert opened("FashionMNIST", tmp_path).splits["test"] == 20


def test_what_killed_kernels_left_half_done_is_swept(fashion: Server, tmp_path: Path):
    hour_ago = time.time() - 3700
    raw, unpacking = tmp_path / "FashionMNIST" / "raw", tmp_path / ".ab12_xyz.part"
    young, others = raw / "images.gz.00112233.part", tmp_path / "film.zip.part"
    old = [
        tmp_path / "cifar-10-python.tar.gz.0a1b2c3d.part",
        raw / "images.gz.ffffffff.part",
        tmp_path / "dtd" / "dtd.tar.gz.01234567.part",
        unpacking / "photos" / "1.jpg",
    ]
    busy = tmp_path / ".busy_001.part" / "photos" / "1.jpg"
    for file in (*old, young, others, busy):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    for path in (*old, others, unpacking / "photos", unpacking, busy.parent.parent):
        os.utime(path, (hour_ago, hour_ago))
    opened("FashionMNIST", tmp_path)
    assert not any(file.exists() for file in (*old, unpacking))
    assert all(file.exists() for file in (young, others, busy))
    os.utime(young, (hour_ago, hour_ago))
    opened("FashionMNIST", tmp_path)  # nothing is downloaded now
    assert not young.exists()


def test_no_network_is_one_line(tmp_path: Path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
    with pytest.raises(DataError, match="could not be downloaded: .*refused") as error:
        opened("FashionMNIST", tmp_path)
    assert "\n" not in str(error.value)


def test_a_set_that_no_program_may_download(tmp_path: Path):
    with pytest.raises(DataError, match="ImageNet is not in .* fetch it and give --root FOLDER"):
        opened("ImageNet", tmp_path)


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """No name is found and nothing is connected to; the hosts that were asked for."""
    hosts: list[str] = []

    def nowhere(host: str, *_: object, **__: object) -> None:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for variable in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was made"))
    return hosts


@pytest.mark.parametrize("name", sorted(set(LIBRARY) - {"FakeData"}))
def test_every_set_is_one_line_without_files_and_network(
    tmp_path: Path, no_network: list[str], name: str
):
    with pytest.raises(
        TLError, match=f"{name} (could not be downloaded: |is not in ).*--root FOLDER"
    ) as error:
        opened(name, tmp_path)
    said = str(error.value)
    assert len(said.splitlines()) == 1 and len(said) < 400
    assert no_network or name in ("ImageNet", "StanfordCars", "PCAM")  # PCAM asks for h5py first
    assert not list(tmp_path.rglob("*.part"))


def test_a_set_that_is_nowhere_any_more(tmp_path: Path):
    with pytest.raises(
        DataError, match="StanfordCars could not be downloaded: The original URL is broken"
    ):
        opened("StanfordCars", tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "many"), [("CIFAR10", "labels", 10), ("CIFAR100", "fine_labels", 100)]
)
def test_cifar(tmp_path: Path, monkeypatch, name: str, key: str, many: int):
    kind = getattr(datasets, name)
    folder = tmp_path / kind.base_folder
    folder.mkdir()

    def write(file: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        return [file, md5(data)]

    def batch(file: str, count: int) -> list[str]:
        labels = [i % many for i in range(count)]
        return write(
            file, {"data": RNG.integers(0, 255, (count, 3072), dtype=np.uint8), key: labels}
        )

    names = [f"c{i}" for i in range(many)]
    meta = write(kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "train_list", [batch(f, 2 * many) for f, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(f, many) for f, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta[1]})
    data = opened(name.lower(), tmp_path, per_class=2)
    assert data.splits == {"train": 2 * many, "test": many} and list(data.classes) == sorted(
        names, key=names.index
    )
    stored = pickle.loads((folder / kind.test_list[0][0]).read_bytes())["data"].reshape(
        -1, 3, 32, 32
    )
    assert torch.equal(data.images["test"], torch.from_numpy(stored))
    with pytest.raises(UsageError, match="--group"):
        opened(name, tmp_path, group="x")


def test_pets_are_files_in_their_own_splits(tmp_path: Path):
    top = tmp_path / "oxford-iiit-pet"
    (top / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 4), ("test", 2)):
        lines = []
        for label, breed in enumerate(("Abyssinian", "great_pyrenees"), start=1):
            for i in range(count):
                name = f"{breed}_{split[0]}{i}"
                picture(top / "images" / f"{name}.jpg", 60 * label + i)
                lines.append(f"{name} {label} 1 1")
        (top / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    (top / "images" / "Abyssinian_t0.jpg").write_bytes(b"nothing")
    data = opened("oxford-iiit-pet", tmp_path, edge=24)
    assert data.splits == {"train": 7, "test": 3} or data.splits == {"train": 7, "test": 4}
    assert data.classes == ("Abyssinian", "Great Pyrenees") and data.edge == 24 and data.from_files
    assert any("Abyssinian_t0" in words for words in data.skipped)


def test_flowers_have_three_splits(tmp_path: Path, monkeypatch):
    from scipy.io import savemat

    top = tmp_path / "flowers-102"
    for i in range(1, 13):
        picture(top / "jpg" / f"image_{i:05}.jpg", 10 * i)
    savemat(top / "imagelabels.mat", {"labels": np.array([1 + i % 2 for i in range(12)])})
    savemat(
        top / "setid.mat",
        {"trnid": np.arange(1, 7), "valid": np.arange(7, 9), "tstid": np.arange(9, 13)},
    )
    hashes = {
        k: (f, md5((top / f).read_bytes()) if f.endswith("mat") else m)
        for k, (f, m) in datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", hashes)
    monkeypatch.setattr(datasets.Flowers102, "classes", ["rose", "lily"], raising=False)
    assert opened("Flowers102", tmp_path).splits == {"train": 6, "val": 2, "test": 4}


def test_eurosat_comes_as_a_zip_without_splits(server: Server, tmp_path: Path, monkeypatch):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in ("Forest", "River"):
            for i in range(10):
                picture(tmp_path / "x.jpg", 50 + i)
                archive.writestr(f"2750/{name}/{name}_{i}.jpg", (tmp_path / "x.jpg").read_bytes())
    server.files["EuroSAT.zip"] = held.getvalue()
    from torchvision.datasets import eurosat

    fetch = eurosat.download_and_extract_archive
    monkeypatch.setattr(
        eurosat,
        "download_and_extract_archive",
        lambda url, download_root, md5: fetch(f"{server.url}EuroSAT.zip", download_root, md5=None),
    )
    data = opened("EuroSAT", tmp_path / "root")
    assert data.splits == {"train": 16, "test": 4} and data.classes == ("Forest", "River")
    assert any("has no splits of its own" in words for words in data.notes)


def test_fake_data_need_nothing(tmp_path: Path, monkeypatch):
    from tlnb.core.data import torchvision_datasets

    monkeypatch.setitem(
        torchvision_datasets.LIBRARY,
        "FakeData",
        {"": {"size": 60, "image_size": (3, 40, 40), "num_classes": 3}},
    )
    data = opened("FakeData", tmp_path)
    assert data.splits["test"] == 12 and len(data.classes) == 3 and data.edge == 32


def test_names_are_torchvisions_whatever_their_case():
    assert library_name("cifar-10") == "CIFAR10" and library_name("ants") is None
    assert all(hasattr(datasets, name) for name in LIBRARY) and set(ARRAYS) <= set(LIBRARY)
    with pytest.raises(DataError, match="did you mean CIFAR10"):
        open_data("cifr10")


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch):
    for name in ("a", "b"):
        for i in range(4):
            picture(tmp_path / "CIFAR10" / name / f"{i}.png", 50 + i)
    monkeypatch.chdir(tmp_path)
    data = open_data("CIFAR10", edge=16)
    assert data.classes == ("a", "b") and data.from_files
    assert open_data(data.request.source, request=data.request, edge=20).edge == 20
