"""Files of integer layers: what is written is read again, and what is none is refused in one line."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import exchange
from reference.requantization import IntegerLayer, Thresholds
from tests.oracles import check_same


@st.composite
def layers(draw):
    bits = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    o, c, kh, kw = (draw(st.integers(1, 3)) for _ in range(4))
    codes = random.integers(0, 2 ** bits[0], (o, c, kh, kw), np.uint8)
    values = np.sort(random.integers(-(2**40), 2**40, (o, draw(st.sampled_from([1, 3, 15])))), axis=1)
    found = Thresholds(values, np.zeros(o, bool)) if draw(st.booleans()) else None
    numbers = (draw(st.integers(-255, 0)), draw(st.integers(1, 2)), bits, draw(st.integers(1, 3)))
    layer = IntegerLayer(codes, *numbers, draw(st.integers(0, 2)), thresholds=found)
    return layer, (draw(st.integers(1, 300)), draw(st.integers(1, 300)))


names = st.text(st.sampled_from("ab.019_/"), min_size=1, max_size=8)


@given(st.dictionaries(names, layers(), max_size=3))
def test_what_is_written_is_read_again(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("exchange") / "net.npz"
    exchange.write(path, written)
    found = exchange.read(path)
    assert list(found) == list(written)
    for name, (layer, size) in written.items():
        again, again_size = found[name]
        assert again_size == size
        for field in ("lowest", "step", "bits", "stride", "padding"):
            assert getattr(again, field) == getattr(layer, field), field
        check_same("codes", again.codes, layer.codes)
        assert (again.thresholds is None) == (layer.thresholds is None)
        if layer.thresholds is not None:
            check_same("thresholds", again.thresholds.values, layer.thresholds.values)
            check_same("falling", again.thresholds.falling, layer.thresholds.falling)


def arrays(**changes):
    """A layer's entries, with some replaced, or taken away."""
    found = {
        "codes": np.zeros((1, 1, 1, 1), np.uint8),
        "grid": np.array([-1, 2]),
        "bits": np.array([1, 1]),
        "geometry": np.array([1, 0]),
        "size": np.array([4, 4]),
        "thresholds": np.array([[0]]),
        "falling": np.array([False]),
    } | changes
    return {f"conv/{name}": array for name, array in found.items() if array is not None}


def test_the_entries_are_a_layer(tmp_path):
    np.savez(tmp_path / "net.npz", **arrays())
    layer, size = exchange.read(tmp_path / "net.npz")["conv"]
    assert (layer.weights.item(), layer.thresholds.top, size) == (-1, 1, (4, 4))
    np.savez(tmp_path / "net.npz", **arrays(thresholds=None, falling=None))
    assert exchange.read(tmp_path / "net.npz")["conv"][0].thresholds is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": np.zeros(1)}, "entry 'conv/more' is unknown"),
        ({"codes": None}, "entries of conv must be complete"),
        ({"falling": None}, "entries of conv must be complete"),
        ({"thresholds": None}, "entries of conv must be complete"),
        ({"grid": None}, "conv/grid must be two integers"),
        ({"bits": np.array([1.0, 1.0])}, "conv/bits must be two integers"),
        ({"size": np.array([4, 4, 4])}, "conv/size must be two integers"),
        ({"size": np.array([4, 0])}, "stride, padding and size of conv must be whole numbers"),
        ({"geometry": np.array([0, 0])}, "stride, padding and size of conv must be whole numbers"),
        ({"geometry": np.array([1, -1])}, "stride, padding and size of conv must be whole numbers"),
        ({"bits": np.array([9, 1])}, "bits must be a whole number from 1 to 8"),
        ({"codes": np.full((1, 1, 1, 1), 2, np.uint8)}, "codes must be from 0 to 1"),
        ({"codes": np.array([[[[object()]]]])}, "allow_pickle=False"),
        ({"thresholds": np.array([[0.5]])}, "values must be int64"),
        ({"falling": np.array([False, True])}, "falling must be bool"),
    ],
)
def test_other_entries_are_refused(changes, message, tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, allow_pickle=True, **arrays(**changes))
    with pytest.raises(ValueError, match=message) as refused:
        exchange.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut", "an array", "another archive"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "net.npz"
    if content == "an array":
        stream = io.BytesIO()
        np.save(stream, np.zeros(3))
        content = stream.getvalue()
    if content == "another archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("words.txt", "words")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no file of integer layers, or damaged"):
        exchange.read(path)


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "net.npz", **arrays(codes=np.zeros((1000, 1, 1, 1), np.uint8)))
    with pytest.raises(ValueError, match="holds more than 1000 bytes"):
        exchange.read(tmp_path / "net.npz")
    with pytest.raises(FileNotFoundError):
        exchange.read(tmp_path / "none.npz")
