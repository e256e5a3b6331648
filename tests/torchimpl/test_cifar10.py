"""CIFAR-10: both layouts read alike, hostile and damaged files refused, downloads resumed, one-line errors.

The small data set has four images a batch. Its sizes and digests are put in the module's tables; no check is skipped.
"""

import contextlib
import hashlib
import http.server
import io
import os
import pickle
import pickletools
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torchimpl.data import cifar10
from torchimpl.data.cifar10 import DataError

PY, BIN = "cifar-10-batches-py", "cifar-10-batches-bin"
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
N = 4


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def text(raw: bytes) -> bytes:
    """The opcode of a python 2 string, as the official batches have it."""
    return b"T" + struct.pack("<i", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


UINT8 = (
    b"cnumpy\ndtype\n"
    + text(b"u1")
    + b"K\x00K\x01\x87R(K\x03"
    + text(b"|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\x00t" + text(b"b") + b"\x87R"


def array(
    raw: bytes,
    *,
    rows: int = N,
    columns: int = 3072,
    dtype: bytes = UINT8,
    fortran: bytes = b"\x89",
    empty: bytes = EMPTY,
) -> bytes:
    shape = b"(" + number(rows) + number(columns) + b"t"
    return empty + b"(K\x01" + shape + dtype + fortran + text(raw) + b"tb"


def batch(data: bytes, labels: bytes, *, start: bytes = b"") -> bytes:
    """A pickle in the opcodes of the official batches; `start` is run first, and dropped."""
    return b"\x80\x02" + start + b"}(" + text(b"data") + data + text(b"labels") + labels + b"u."


def listed(labels: np.ndarray) -> bytes:
    return b"](" + b"".join(number(int(label)) for label in labels) + b"e"


def tar(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def official(path: str, content: bytes) -> cifar10.File:
    return cifar10.File(len(content), md5(content))


def small() -> SimpleNamespace:
    """The small data set: pixels and labels by batch, the files of both layouts, the archive, its tables."""
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (N, 3072), np.uint8) for name in BATCHES}
    labels = {name: rng.integers(0, 10, N) for name in BATCHES}
    files = {
        PY: {name: batch(array(pixels[name].tobytes()), listed(labels[name])) for name in BATCHES},
        BIN: {
            f"{name}.bin": b"".join(
                bytes([label]) + image.tobytes() for label, image in zip(labels[name], pixels[name], strict=True)
            )
            for name in BATCHES
        },
    }
    meta = b"names of the classes"
    members = {f"{PY}/{name}": content for name, content in (files[PY] | {"batches.meta": meta}).items()}
    archive = tar({f"{PY}/readme.html": b"<p>", "../outside": b"!", **members})
    streams = {
        "train": b"".join(files[BIN][f"{name}.bin"] for name in BATCHES[:5]),
        "test": files[BIN]["test_batch.bin"],
    }
    tables = {
        "BATCH": N,
        "LAYOUTS": {folder: {k: official(k, v) for k, v in held.items()} for folder, held in files.items()},
        "META": official("batches.meta", meta),
        "ARCHIVE": official("archive", archive),
        "SHA256": {split: hashlib.sha256(stream).hexdigest() for split, stream in streams.items()},
    }
    return SimpleNamespace(pixels=pixels, labels=labels, files=files, members=members, archive=archive, tables=tables)


SMALL = small()


def write(root: Path, layout: str, files: dict[str, bytes] | None = None) -> Path:
    folder = root / layout
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (files or SMALL.files[layout]).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The module's tables describe the small data set."""
    for name, value in SMALL.tables.items():
        monkeypatch.setattr(cifar10, name, value)
    monkeypatch.setenv("no_proxy", "*")
    return monkeypatch


def admit(patch: pytest.MonkeyPatch, content: bytes, name: str = "test_batch", layout: str = PY) -> None:
    """Give a file's content the md5 and size that are asked for, so that it is read."""
    held = SMALL.tables["LAYOUTS"]
    patch.setattr(cifar10, "LAYOUTS", {**held, layout: {**held[layout], name: official(name, content)}})


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert line, "an error says what is wrong"
    assert "\n" not in line
    return line


# Reading


@pytest.mark.parametrize("layout", [PY, BIN])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("inside", [False, True], ids=["holds", "is"])
def test_both_layouts_give_the_same(tables, tmp_path, layout, split, inside):
    folder = write(tmp_path, layout)
    got = cifar10.load(folder if inside else tmp_path, split)
    names = BATCHES[:5] if split == "train" else BATCHES[5:]
    assert got.images.dtype == np.uint8
    assert got.labels.dtype == np.int64
    assert got.images.shape == (len(names) * N, 3, 32, 32)
    assert got.sha256 == SMALL.tables["SHA256"][split]
    for i, name in enumerate(names):  # the oracle: one pixel after the other, from where the format says that it lies
        for j in range(N):
            assert got.labels[i * N + j] == SMALL.labels[name][j]
            for c, y, x in [(0, 0, 0), (0, 0, 31), (1, 2, 3), (2, 31, 0), (2, 31, 31)]:
                assert got.images[i * N + j, c, y, x] == SMALL.pixels[name][j, 1024 * c + 32 * y + x]
    got.images[0], got.labels[0] = 0, 0  # writable, and so usable without a copy


def test_the_hand_written_batches_are_pickles_that_numpy_reads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core
        for name, content in SMALL.files[PY].items():
            plain = pickle.loads(content, encoding="bytes")
            np.testing.assert_array_equal(plain[b"data"], SMALL.pixels[name])
            assert plain[b"labels"] == SMALL.labels[name].tolist()


def test_the_most_complete_layout_is_read(tables, tmp_path):
    folder = write(tmp_path, PY)
    (folder / "data_batch_3").unlink()
    assert cifar10.check(write(tmp_path, BIN)) == tmp_path / BIN
    assert cifar10.check(tmp_path) == tmp_path / BIN


@pytest.mark.parametrize("split", ["val", "", "Test", "train\n"])
def test_unknown_split(tables, tmp_path, split):
    line = message(lambda: cifar10.load(tmp_path, split))
    assert repr(split) in line
    assert "'train' and 'test'" in line


def test_missing_folder_and_files(tables, tmp_path):
    assert f"{tmp_path / 'no'} is not a folder" in message(lambda: cifar10.load(tmp_path / "no", "test"))
    assert "holds no CIFAR-10" in message(lambda: cifar10.load(tmp_path, "test"))
    folder = write(tmp_path, PY)
    (folder / "data_batch_3").unlink()
    cifar10.load(tmp_path, "test")
    line = message(lambda: cifar10.load(tmp_path, "train"))
    assert f"{folder / 'data_batch_3'} is missing" in line
    (folder / "test_batch").unlink()
    (folder / "test_batch").mkdir()
    assert "not a regular file" in message(lambda: cifar10.load(tmp_path, "test"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tables, tmp_path):
    folder = write(tmp_path, BIN)
    (folder / "test_batch.bin").unlink()
    os.mkfifo(folder / "test_batch.bin")
    assert "not a regular file" in message(lambda: cifar10.load(tmp_path, "test"))


@pytest.mark.parametrize("layout", [PY, BIN])
@pytest.mark.parametrize(
    "change", [lambda c: b"", lambda c: c[:-1], lambda c: c + b"\0"], ids=["empty", "short", "long"]
)
def test_wrong_size_is_refused_unread(tables, tmp_path, layout, change):
    folder = write(tmp_path, layout)
    name, content = list(SMALL.files[layout].items())[-1]
    (folder / name).write_bytes(change(content))
    tables.setattr(Path, "open", lambda *_: pytest.fail("a file of the wrong size was opened"))
    line = message(lambda: cifar10.load(tmp_path, "test"))
    assert str(folder / name) in line
    assert f"has {len(change(content))} bytes, the official file has {len(content)}" in line


@pytest.mark.parametrize("layout", [PY, BIN])
def test_wrong_md5_is_refused_before_unpickling(tables, tmp_path, layout):
    folder = write(tmp_path, layout)
    name, content = list(SMALL.files[layout].items())[-1]
    altered = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    (folder / name).write_bytes(altered)
    tables.setattr(cifar10, "_unpickle", lambda *_: pytest.fail("a file with a wrong md5 was unpickled"))
    line = message(lambda: cifar10.load(tmp_path, "test"))
    assert str(folder / name) in line
    assert md5(altered) in line
    assert md5(content) in line


@pytest.mark.parametrize("layout", [PY, BIN])
def test_other_records_behind_the_right_md5_are_refused(tables, tmp_path, layout):
    name, other = ("test_batch", "data_batch_1") if layout == PY else ("test_batch.bin", "data_batch_1.bin")
    content = SMALL.files[layout][other]
    write(tmp_path, layout, {name: content})
    admit(tables, content, name, layout)
    assert SMALL.tables["SHA256"]["test"] in message(lambda: cifar10.load(tmp_path, "test"))


# Hostile pickles, all with the md5 that is asked for

RAW = SMALL.pixels["test_batch"].tobytes()
LABELS = listed(SMALL.labels["test_batch"])
OBJECTS = UINT8.replace(text(b"u1"), text(b"O8"))
MARK = b"touch marker"
EVAL = b"X\x17\x00\x00\x00open('marker','w') or 1\x85R0"
CALLS = {
    "os.system": b"cos\nsystem\n" + text(MARK) + b"\x85R0",
    "posix.system": b"cposix\nsystem\n" + text(MARK) + b"\x85R0",
    "subprocess.getoutput": b"csubprocess\ngetoutput\nX" + struct.pack("<i", len(MARK)) + MARK + b"\x85R0",
    "builtins.eval": b"cbuiltins\neval\n" + EVAL,
    "__builtin__.eval": b"c__builtin__\neval\n" + EVAL,
    "builtins.exec": b"\x8c\x08builtins\x8c\x04exec\x930",
    "builtins.getattr": b"cbuiltins\ngetattr\n0",
    "numpy.load": b"cnumpy\nload\n0",
    "numpy.ndarray.tofile": b"\x8c\x05numpy\x8c\x0endarray.tofile\x930",
    "numpy._core.multiarray._reconstruct": b"cnumpy._core.multiarray\n_reconstruct\n0",
    "_codecs.encode": b"c_codecs\nencode\n0",
    "copyreg._reconstructor": b"ccopyreg\n_reconstructor\n0",
    "os.getcwd": b"(ios\ngetcwd\n0",
    "os.abort": b"(cos\nabort\no0",
    "torchimpl.data.cifar10._Array": b"ctorchimpl.data.cifar10\n_Array\n0",
}
STATES = {
    "object dtype": array(RAW, dtype=OBJECTS),
    "object list": EMPTY + b"(K\x01(" + number(N) + number(3072) + b"t" + OBJECTS + b"\x89]tb",
    "huge shape": array(RAW, rows=2**31 - 1),
    "huge shape without bytes": array(b"", rows=2**31 - 1, columns=2**31 - 1),
    "negative shape": array(RAW, rows=-N, columns=-3072),
    "one row less": array(RAW[:-3072], rows=N - 1),
    "fewer bytes than the shape": array(RAW[:-1]),
    "more bytes than the shape": array(RAW + b"\0"),
    "other shape of the same size": array(RAW, rows=3072, columns=N),
    "Fortran order": array(RAW, fortran=b"\x88"),
    "signed dtype": array(RAW, dtype=UINT8.replace(text(b"u1"), text(b"i1"))),
    "wide dtype": array(RAW, dtype=UINT8.replace(text(b"u1"), text(b"u2"))),
    "dtype with fields": array(RAW, dtype=UINT8.replace(b"NNN", b"N}}")),
    "no dtype": array(RAW, dtype=b"N"),
    "class for dtype": array(RAW, dtype=b"cnumpy\ndtype\n"),
    "class for array": b"cnumpy\nndarray\n",
    "array of another constructor": array(RAW, empty=EMPTY.replace(text(b"b"), text(b"O"))),
    "array that is never filled": EMPTY,
    "array without constructor, never filled": b"cnumpy\nndarray\n)\x81",
    "state of a class": b"cnumpy\nndarray\n}(" + text(b"pixels") + text(b"x") + b"ub",
    "attributes instead of state": EMPTY + b"}(X\x06\x00\x00\x00pixelsK\x01ub",
    "slots instead of state": EMPTY + b"N}(X\x06\x00\x00\x00pixelsK\x01u\x86b",
    "bytes": text(RAW),
    "list": b"](K\x01K\x02e",
    "persistent object": b"Pmarker\n",
    "registered extension": b"\x82\x01",
}
LISTS = {
    "too few": listed(SMALL.labels["test_batch"][1:]),
    "too many": listed(np.arange(N + 1)),
    "above 9": b"](" + b"K\x0a" * N + b"e",
    "negative": b"](" + number(-1) * N + b"e",
    "above a byte": b"](" + number(256) * N + b"e",
    "text": b"](" + text(b"1") * N + b"e",
    "true": b"](" + b"\x88" * N + b"e",
    "fractions": b"](" + (b"G" + struct.pack(">d", 1.5)) * N + b"e",
    "lists": b"](" + b"]" * N + b"e",
    "text as a whole": text(b"\1" * N),
    "none": b"N",
}


def refusal(patch: pytest.MonkeyPatch, root: Path, content: bytes) -> str:
    """What `load` says of this test batch; nothing it asks for may have been run or left behind."""
    folder = write(root, PY, {"test_batch": content})
    admit(patch, content)
    patch.chdir(root)
    before = dict(vars(cifar10._Array)), dict(vars(cifar10._UInt8))
    line = message(lambda: cifar10.load(root, "test"))
    assert (dict(vars(cifar10._Array)), dict(vars(cifar10._UInt8))) == before
    assert sorted(root.rglob("*")) == [folder, folder / "test_batch"]
    assert line.startswith(f"{folder / 'test_batch'} is not an admissible batch: ")
    return line


@pytest.mark.parametrize("asked", CALLS)
def test_calls_are_refused_by_name(tables, tmp_path, asked):
    good = batch(array(RAW), LABELS)
    for content in [batch(array(RAW), LABELS, start=CALLS[asked]), good[:-1] + CALLS[asked] + b"."]:
        assert f"{asked!r}, which is refused" in refusal(tables, tmp_path, content)


def test_the_hostile_calls_would_run_in_a_plain_unpickler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in ["os.system", "subprocess.getoutput", "builtins.eval", "__builtin__.eval"]:
        pickle.loads(b"\x80\x02" + CALLS[call] + b"N.", encoding="latin1")
        (tmp_path / "marker").unlink()  # it is there, else the test above shows nothing


@pytest.mark.parametrize("state", STATES)
def test_other_arrays_are_refused(tables, tmp_path, state):
    line = refusal(tables, tmp_path, batch(STATES[state], LABELS))
    if "shape" in state:
        assert f"its array is not {N} x 3072 bytes" in line


@pytest.mark.parametrize("labels", LISTS)
def test_other_labels_are_refused(tables, tmp_path, labels):
    assert "labels" in refusal(tables, tmp_path, batch(array(RAW), LISTS[labels]))


@pytest.mark.parametrize(
    "content", [b"", b".", b"N.", b"].", b"}.", b"\x80\x63.", b"not a pickle", b"PK\3\4", b"\x80\x04\x95" + b"\xff" * 8]
)
def test_other_files_are_refused(tables, tmp_path, content):
    refusal(tables, tmp_path, content)


@settings(deadline=None)
@given(st.data())
def test_a_garbled_batch_is_refused_or_reads_the_same(tmp_path_factory, data):
    content = bytearray(SMALL.files[PY]["test_batch"])
    frame = [i for i in range(len(content)) if i < 260 or i >= len(content) - 50]  # all but the middle of the pixels
    for at in data.draw(st.lists(st.sampled_from(frame), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([None, *frame]))]
    try:
        for opcode, argument, _ in pickletools.genops(bytes(content)):  # a memo number is a size of memory
            assume(not (opcode.name.endswith("PUT") and argument > 1000))
    except (ValueError, UnicodeDecodeError):
        pass
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.tables.items():
            patch.setattr(cifar10, name, value)
        admit(patch, bytes(content))
        root = tmp_path_factory.mktemp("garbled")
        write(root, PY, {"test_batch": bytes(content)})
        try:
            got = cifar10.load(root, "test")
        except DataError as error:
            line = str(error)
        else:
            line = ""
            assert got.sha256 == SMALL.tables["SHA256"]["test"]
            np.testing.assert_array_equal(got.images.reshape(N, -1), SMALL.pixels["test_batch"])
        assert "\n" not in line


# Downloading


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `ranges`, `status` and `stop` (bytes sent before the line goes dead) are the test's to set."""

    content = SMALL.archive
    ranges = True
    status: int | None = None
    stop: int | None = None
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/cifar-10-python.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if server.status:
            return self.send_error(server.status)
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever has enough hangs up
            self.wfile.write(server.content[first : server.stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tables) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


EXPECTED = {name.removeprefix(f"{PY}/"): content for name, content in SMALL.members.items()}


@pytest.mark.parametrize("inside", [False, True], ids=["holds", "is"])
def test_download_then_nothing_more_to_do(server, tmp_path, inside):
    root = tmp_path / "new" / "folder"
    target = root / PY if inside else root
    assert cifar10.download(target, url=server.url) == root / PY
    assert contents(root / PY) == EXPECTED
    assert [path.name for path in root.iterdir()] == [PY], "no archive, and nothing that the archive has besides"
    assert not (tmp_path / "new" / "outside").exists()
    assert cifar10.download(target, url=server.url) == cifar10.check(root) == root / PY
    assert server.asked == [None]


@pytest.mark.parametrize("layout", [PY, BIN])
def test_what_is_there_is_not_downloaded(server, tmp_path, layout):
    write(tmp_path, layout)
    assert cifar10.download(tmp_path, url=server.url) == tmp_path / layout
    assert server.asked == []


def test_wrong_files_are_replaced(server, tmp_path):
    folder = write(tmp_path, PY)
    (folder / "data_batch_2").write_bytes(b"wrong")
    (folder / "mine.txt").write_bytes(b"kept")
    assert cifar10.download(tmp_path, url=server.url) == folder
    assert contents(folder) == EXPECTED | {"mine.txt": b"kept"}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 20000, len(SMALL.archive) - 1])
def test_an_interrupted_download_is_resumed(server, tmp_path, ranges, stop):
    server.ranges, server.stop = ranges, stop
    part = tmp_path / "cifar-10-python.tar.gz.part"
    line = message(lambda: cifar10.download(tmp_path, url=server.url))
    assert f"ended after {stop} of {len(SMALL.archive)} bytes" in line
    assert "run again to resume" in line
    assert part.read_bytes() == SMALL.archive[:stop]
    assert not (tmp_path / PY).exists()
    server.stop = None
    assert contents(cifar10.download(tmp_path, url=server.url)) == EXPECTED
    assert server.asked == [None, f"bytes={stop}-" if stop else None]
    assert not part.exists()


def test_a_complete_part_needs_no_network(server, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(SMALL.archive)
    assert contents(cifar10.download(tmp_path, url=server.url)) == EXPECTED
    assert server.asked == []


@pytest.mark.parametrize("start", [b"", b"an older file"])
def test_a_wrong_md5_deletes_the_part(server, tmp_path, start):
    part = tmp_path / "cifar-10-python.tar.gz.part"
    part.write_bytes(start)
    server.content = SMALL.archive[:-1] + b"?"
    line = message(lambda: cifar10.download(tmp_path, url=server.url))
    assert "has md5" in line
    assert cifar10.ARCHIVE.md5 in line
    assert "deleted" in line
    assert list(tmp_path.iterdir()) == []


def test_an_endless_answer_is_cut_off(server, tmp_path):
    server.content = SMALL.archive + bytes(1 << 22)
    line = message(lambda: cifar10.download(tmp_path, url=server.url))
    assert f"the official file has {len(SMALL.archive)}" in line
    assert int(line.split(" has ")[1].split()[0]) <= len(SMALL.archive) + (1 << 16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 416, 500])
def test_refusals_of_the_server(server, tmp_path, status):
    server.status = status
    part = tmp_path / "cifar-10-python.tar.gz.part"
    part.write_bytes(b"what has arrived")
    line = message(lambda: cifar10.download(tmp_path, url=server.url))
    assert str(status) in line
    assert server.url in line
    assert part.read_bytes() == b"what has arrived"


def test_no_server(tables, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/x"
    assert "refused" in message(lambda: cifar10.download(tmp_path, url=url)).lower()


def test_a_silent_server(tables, tmp_path):
    tables.setattr(cifar10, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert "timed out" in message(lambda: cifar10.download(tmp_path, url=url))


def test_a_server_of_another_protocol(tables, tmp_path):
    def answer() -> None:
        with other.accept()[0] as line:
            line.recv(1 << 16)
            line.sendall(b"220 mail.example.org ESMTP\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}/x"
        assert "220 mail.example.org" in message(lambda: cifar10.download(tmp_path, url=url))
        thread.join()


@pytest.mark.parametrize(
    "url", ["", "x", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://127.0.0.1:x/", "http://a b/"]
)
def test_addresses_that_are_none(tables, tmp_path, url):
    message(lambda: cifar10.download(tmp_path, url=url))


def test_an_archive_on_this_machine_is_not_an_address(tables, tmp_path):
    (tmp_path / "archive").write_bytes(SMALL.archive)
    url = (tmp_path / "archive").as_uri()
    assert "only http and https" in message(lambda: cifar10.download(tmp_path, url=url))


def test_a_root_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    message(lambda: cifar10.download(tmp_path / "file", url=server.url))
    message(lambda: cifar10.download(tmp_path / "file" / "below", url=server.url))
    assert server.asked == []


ARCHIVES = {
    "no archive": (b"<html>moved</html>", "cannot be downloaded"),
    "truncated": (SMALL.archive[: len(SMALL.archive) // 2], "cannot be downloaded"),
    "empty": (tar({}), "lacks"),
    "file left out": (tar({k: v for k, v in SMALL.members.items() if "batch_4" not in k}), f"lacks {PY}/data_batch_4"),
    "other folder": (tar({k.replace(PY, "../" + PY): v for k, v in SMALL.members.items()}), "lacks"),
    "link": (
        tar({k: v for k, v in SMALL.members.items() if "test" not in k}, links={f"{PY}/test_batch": "../mine.txt"}),
        f"lacks {PY}/test_batch",
    ),
    "long file": (tar(SMALL.members | {f"{PY}/test_batch": bytes(1 << 20)}), f"has {1 << 20} bytes"),
    "altered file": (tar({k: bytes(len(v)) for k, v in SMALL.members.items()}), "has md5"),
}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_other_archives_are_refused(server, tmp_path, archive):
    server.content, reason = ARCHIVES[archive]
    server_md5 = official("archive", server.content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "ARCHIVE", server_md5)
        assert reason in message(lambda: cifar10.download(tmp_path / "data", url=server.url))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    folder = tmp_path / "data" / PY
    if folder.exists():
        assert contents(folder).items() <= EXPECTED.items(), "only right files are left behind"


# The command line


def test_command(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(cifar10.download.__kwdefaults__, "url", server.url)
    assert cifar10.main([str(tmp_path), "--check"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "holds no CIFAR-10" in err
    assert server.asked == []
    for arguments in [[str(tmp_path)], [str(tmp_path), "--check"], [str(tmp_path)]]:
        assert cifar10.main(arguments) == 0
        assert capsys.readouterr() == (f"{tmp_path / PY}\n", "")
    assert server.asked == [None]
    server.status = 404
    assert cifar10.main([str(tmp_path / "again")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "404" in err


def test_command_in_a_process_of_its_own(tmp_path):
    here = Path(cifar10.__file__).parents[2]
    command = [sys.executable, "-m", "torchimpl.data.cifar10"]
    wrong = subprocess.run([*command, str(tmp_path / "no"), "--check"], cwd=here, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"python -m torchimpl.data.cifar10: {tmp_path / 'no'} is not a folder; ")
    assert wrong.stderr.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as left:
        cifar10.main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ["DIR", "--check", "resumed", "Exit status"])


# The real data


@pytest.fixture(scope="module")
def real() -> Path:
    if not os.environ.get("QUANTGAP_DATA"):
        pytest.skip("QUANTGAP_DATA is unset: it names the folder that holds the real CIFAR-10")
    return Path(os.environ["QUANTGAP_DATA"])


def test_real_data(real, tmp_path):
    splits = {split: cifar10.load(real, split) for split in ["train", "test"]}
    for split, each in [("train", 5000), ("test", 1000)]:  # as the data set's page says
        got = splits[split]
        assert got.images.shape == (10 * each, 3, 32, 32)
        assert np.bincount(got.labels).tolist() == [each] * 10
    # The channel means that papers print
    means = splits["train"].images.mean(axis=(0, 2, 3)) / 255
    assert means.round(4).tolist() == [0.4914, 0.4822, 0.4465]
    # The binary layout, written by hand
    folder = tmp_path / BIN
    folder.mkdir()
    for split, names in [("train", BATCHES[:5]), ("test", BATCHES[5:])]:
        images = splits[split].images.reshape(len(names), 10000, 3072)
        labels = splits[split].labels.reshape(len(names), 10000, 1).astype(np.uint8)
        for name, x, y in zip(names, images, labels, strict=True):
            (folder / f"{name}.bin").write_bytes(np.concatenate([y, x], axis=1).tobytes())
    for split in ["train", "test"]:
        got = cifar10.load(tmp_path, split)
        assert np.array_equal(got.images, splits[split].images)
        assert np.array_equal(got.labels, splits[split].labels)
        assert got.sha256 == splits[split].sha256


def test_an_interruption_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupted(root):
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar10, "download", interrupted)
    assert cifar10.main([str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "python -m torchimpl.data.cifar10: interrupted; run again to resume\n")
