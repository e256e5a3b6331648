"""Public networks: what is known of them, how they are judged, and that nothing but the known files is kept."""

import hashlib
import io
import re
import urllib.error

import pytest

from paper_tables import cells, jobs, released
from paper_tables.cells import Measurement
from paper_tables.released import Network
from paper_tables.tables import InputError, Options
from torchimpl import checkpoints
from torchimpl.models import ARCHITECTURES


def test_every_entry_is_whole():
    names = [network.row for network in released.networks()]
    assert len({*names}) == len(names) >= 8
    for network in released.networks():
        assert re.fullmatch(r"[0-9a-f]{40}", network.commit)
        assert re.fullmatch(r"[0-9a-f]{64}", network.sha256)
        assert network.arch in ARCHITECTURES
        assert checkpoints.parse_normalization(network.normalization)
        assert (network.method is None) == (network.bits is None)
        assert ".." not in network.path
        assert network.address.startswith("https://")


def regenerated(tmp_path, monkeypatch, correct):
    """The table, where every file has so many images right."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    for job in released.jobs(Options()):
        fields = {"measured": correct / 100, "ci95": (80.0, 99.0), "runs": 1, "images": 10_000, "protocol": "made up"}
        found = Measurement(**job.place._asdict(), unit=job.unit, key=job.key, **fields)
        cells.write(tmp_path / "results", [found])
    (table,), _ = jobs.regenerate([released], Options(out=tmp_path / "out", quiet=True))
    return {cell.row: cell for cell in table.cells}


def test_claims_are_judged_and_daqs_three_are_there(tmp_path, monkeypatch):
    found = regenerated(tmp_path, monkeypatch, 9173)
    akamaster = found["ResNet-20, full precision (akamaster/pytorch_resnet_cifar10)"]
    assert (akamaster.reported, akamaster.value_verdict) == ("91.73", "matches")
    deeper = found["ResNet-56, full precision (akamaster/pytorch_resnet_cifar10)"]
    assert (deeper.reported, deeper.value_verdict) == ("93.39", "released file differs")
    assert "README: test error 6.61 %" in deeper.reason
    ours = [cell for row, cell in found.items() if row.endswith("(cvlab-yonsei/DAQ)")]
    assert [cell.value_verdict for cell in ours] == ["released file differs"] * 3
    assert len(found) == 3 + len(released.networks())


def test_without_the_folder_of_others_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    options = Options(checkpoints=tmp_path, out=tmp_path / "out", quiet=True)
    assert options.others is None
    (table,), _ = jobs.regenerate([released], options)
    assert {cell.value_verdict for cell in table.cells} == {"not run"}
    assert any("python -m paper_tables.released DIR" in cell.reason for cell in table.cells)
    (tmp_path / "others").mkdir()
    assert options.others == tmp_path / "others"


def test_a_file_that_is_missing_says_what_fetches_it(tmp_path, cifar10_root):
    (tmp_path / "others").mkdir()
    job = released.jobs(Options(data=cifar10_root, checkpoints=tmp_path))[-1]
    with pytest.raises(InputError, match=r"no such file; `python -m paper_tables\.released DIR` fetches it"):
        job.run(lambda part: None)


CONTENT = b"weights"
MADE_UP = Network(
    "Net",
    "some/body",
    "0" * 40,
    "a/net.th",
    hashlib.sha256(CONTENT).hexdigest(),
    "resnet20",
    "imagenet",
    "91.7",
    "here",
)


def answers(monkeypatch, reply):
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        if isinstance(reply, Exception):
            raise reply
        return io.BytesIO(reply)

    monkeypatch.setattr(released.urllib.request, "urlopen", urlopen)
    return asked


def test_a_file_is_fetched_once(tmp_path, monkeypatch):
    asked = answers(monkeypatch, CONTENT)
    assert released.fetch(MADE_UP, tmp_path) is True
    assert (tmp_path / "some/body/a/net.th").read_bytes() == CONTENT
    assert released.fetch(MADE_UP, tmp_path) is False
    assert asked == [f"https://raw.githubusercontent.com/some/body/{'0' * 40}/a/net.th"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"another file", "not kept"),
        (urllib.error.URLError("no route"), "cannot be downloaded: no route"),
        (TimeoutError("timed out"), "cannot be downloaded: timed out"),
    ],
)
def test_nothing_else_is_kept(reply, words, tmp_path, monkeypatch):
    answers(monkeypatch, reply)
    with pytest.raises(InputError, match=words):
        released.fetch(MADE_UP, tmp_path)
    assert [*tmp_path.rglob("*")] == []


def test_no_more_is_read_than_a_network_may_have(tmp_path, monkeypatch):
    answers(monkeypatch, CONTENT)
    monkeypatch.setattr(released, "MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(InputError, match="not kept"):
        released.fetch(MADE_UP, tmp_path)
    monkeypatch.setattr(released, "MOST_BYTES", len(CONTENT))
    assert released.fetch(MADE_UP, tmp_path) is True


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released, "networks", lambda: (MADE_UP,))
    answers(monkeypatch, CONTENT)
    assert released.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'others'}\n"
    answers(monkeypatch, OSError("gone"))
    (tmp_path / "others/some/body/a/net.th").unlink()
    assert released.main([str(tmp_path)]) == 2
    assert "cannot be downloaded: gone" in capsys.readouterr().err
