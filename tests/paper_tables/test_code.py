"""Paper against released code: each number against a computation of its own."""

import math
import re

import numpy as np
import pytest

from paper_tables import cells, jobs
from paper_tables.audit import code
from paper_tables.cells import Cell
from paper_tables.tables import Options


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "RESULTS", tmp_path_factory.mktemp("results"))
        (table,), _ = jobs.regenerate([code], Options(out=tmp_path_factory.mktemp("out")))
    return {cell.row: cell for cell in table.cells}


def mean_slope(c):
    return 2 / math.sinh(2) * math.log(math.sinh(0.5 + c) / math.sinh(c))


def test_the_code_agrees_where_it_computes_the_gaussian(monkeypatch):
    monkeypatch.setattr(code, "literal_kernel", lambda q, centre, sigma: np.exp(-((q - centre) ** 2) / 2 / sigma**2))
    assert {cell.value_verdict for cell in code.kernel_cells()} == {"same"}


def test_nothing_is_said_to_be_contradicted(computed):
    """Code and files that differ may be others than those of the printed numbers."""
    assert not {"contradicted", "fails"} & {
        verdict for cell in computed.values() for verdict in (cell.value_verdict, cell.claim_verdict)
    }


def test_what_the_paper_does_not_say_has_no_verdict(computed):
    silent = [cell for cell in computed.values() if cell.reported is None]
    assert {cell.row for cell in silent} >= {
        "best epoch on test images",
        "output scale in the very first batch, 1/32",
        "NaN beside a tie, gamma = 2",
    }
    assert {cell.value_verdict for cell in silent} <= {None, "not run"}
    assert {cell.claim_verdict for cell in silent} == {None}


def test_what_was_read_names_its_lines(computed):
    assert len({fact.row for fact in code.FACTS}) == len(code.FACTS)
    for fact in code.FACTS:
        cell = computed[fact.row]
        assert re.match(r"[\w/]+\.py:\d+", cell.reason), cell.reason
        assert cell.value_verdict == (None if fact.says is None else "same" if fact.agrees else "differs")
        assert (fact.says is None) == (fact.agrees is None)
        assert cell.measured is None


def test_kernels(computed):
    for role, sigma in (("weights", 1.0), ("activations", 2.0)):
        cell = computed[f"kernel at the farther level, {role}"]
        assert cell.reported.startswith(f"{math.exp(-1 / (2 * sigma**2)):.4f} ")
        assert cell.measured == pytest.approx(math.exp(-1 / sigma**2))
        assert cell.value_verdict == "differs"
        assert f"mean slope of the gradient becomes {mean_slope(1 / (2 * sigma**2)):.3f}" in cell.reason
        assert f"instead of {mean_slope(1 / (4 * sigma**2)):.3f}" in cell.reason


def test_ties(computed):
    ties = [k + 0.5 for k in range(255)]
    even = sum(round(tie) != math.floor(tie) for tie in ties)  # Python rounds ties to even
    assert computed["ties under torch.round"].measured == pytest.approx(100 * even / 255)
    assert computed["ties under C's round and NEON's FCVTA"].measured == 100


def scalar_released_phi(x, gamma, sigma):
    """Eq. 4 to 7 in float32 for two inputs, less the largest score of both."""
    exp = lambda value: np.exp(np.float32(value))  # noqa: E731
    scores, tops = [], []
    for value in map(np.float32, x):
        near_f = value <= 0.5
        far = exp(-1 / sigma**2)
        s_f = (np.float32(1) if near_f else far) * exp(-value)
        s_c = (far if near_f else np.float32(1)) * exp(-(1 - value))
        beta = np.float32(gamma) / abs(s_f - s_c)
        scores.append((beta * s_f, beta * s_c))
        tops.append(max(beta * s_f, beta * s_c))
    top = max(tops)
    with np.errstate(all="ignore"):
        weights = [(np.exp(f - top), np.exp(c - top)) for f, c in scores]
        return [float(c / (f + c)) for f, c in weights]


@pytest.mark.parametrize("gamma", [2.0, 4.0, 8.0])
def test_nan_begins_where_it_is_said_to(gamma):
    sigma = code.first_nan(gamma)
    # a scalar oracle may differ in the last bit of a float32 exponential, hence the margin of 1 %
    assert any(map(math.isnan, scalar_released_phi([0.0, 0.5], gamma, sigma * 1.01)))
    assert not any(map(math.isnan, scalar_released_phi([0.0, 0.5], gamma, sigma * 0.99)))


def test_without_checkpoints_the_rows_are_listed_as_not_run(computed):
    found = [cell for cell in computed.values() if cell.command]
    assert len(found) == 21
    assert {cell.value_verdict for cell in found} == {"not run"}
    assert all("--checkpoints" in cell.reason for cell in found)
    assert [cell.row for cell in found if not cell.reported] == ["output scale in the very first batch, 1/32"]


@pytest.mark.parametrize(
    ("row", "value", "detail", "verdict", "says"),
    [
        (
            "learning rate of the weights, 1/1",
            0.1,
            {"momentum": 0.9},
            "released file differs",
            "is 0.1, its momentum 0.9",
        ),
        ("learning rate of the weights, 1/1", 0.01, {"momentum": 0.9}, "matches", "is 0.01"),
        ("weight decay of the quantizers, 1/32", 0.0, {}, "matches", "weight_decay is 0"),
        ("epochs, 1/1", 400.0, {}, "matches", "no best epoch"),
        ("batch size, 1/1", 128.0, {"batches": 8, "batches an epoch": 2.0}, "released file differs", "8 batches more"),
        ("threshold between the two weight levels, 1/1", 0.2, {"layer": "layer1"}, None, "farthest from 0, layer1"),
        (
            "batches seen by the BatchNorm after the first convolution",
            7.0,
            {"others": 7, "features": 64},
            "matches",
            "over its 64 features",
        ),
        (
            "batches seen by the BatchNorm after the first convolution",
            0.0,
            {"others": 7, "features": 64},
            "released file differs",
            "it saw 0 batches where the others saw 7",
        ),
        (
            "output scale in the very first batch, 1/32",
            3.0,
            {"least": 0.1, "greatest": 0.6, "layers": 18},
            None,
            "0.100 to 0.600 would be right (18 layers",
        ),
        ("cosine schedule, 1/1", 400.0, {"last rate": 0.0}, "matches", "T_max = 400"),
        ("cosine schedule, 1/32", 400.0, {"last rate": 0.1}, "released file differs", "last rate is 0.1"),
        (
            "layers without a quantizer, 1/1",
            2.0,
            {"layers": "conv1, linear", "quantized": 18},
            "matches",
            "18 layers have one",
        ),
        (
            "layers without a quantizer, 1/1",
            2.0,
            {"layers": "conv1, conv2", "quantized": 18},
            "released file differs",
            "conv1, conv2",
        ),
        ("learned lower bounds of the inputs, 1/1", 0.0, {"upper": 18}, "matches", "18 have a learned upper bound"),
        ("learned lower bounds of the inputs, 1/1", 1.0, {"upper": 18}, "released file differs", "1 layers have one"),
        ("learned lower bounds of the inputs, 1/1", 0.0, {"upper": 0}, "released file differs", "0 have"),
    ],
)
def test_measured_lines_are_judged_when_shown(row, value, detail, verdict, says):
    blank = {job.place: Cell(**job.place._asdict(), unit="", value_verdict="not run") for job in code.jobs(Options())}
    (place,) = [place for place in blank if place.row == row]
    found = Cell(**place._asdict(), unit="", measured=value, detail=detail, images=256)
    (cell,) = [cell for cell in code.judged(Options(), blank | {place: found}) if cell.row == row]
    assert cell.value_verdict == verdict
    assert says in cell.reason


def test_released_checkpoints(cifar10_root, checkpoint_root, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    (table,), _ = jobs.regenerate(
        [code], Options(data=cifar10_root, checkpoints=checkpoint_root, out=tmp_path, quiet=True)
    )
    found = {cell.row: cell for cell in table.cells}
    for column in ("1/1", "1/32"):
        assert found[f"learning rate of the weights, {column}"].measured == 0.1
        assert found[f"learning rate of the weights, {column}"].value_verdict == "released file differs"
        assert found[f"cosine schedule, {column}"].measured == 400
        assert found[f"layers without a quantizer, {column}"].detail == {"layers": "conv1, linear", "quantized": 18}
        assert found[f"epochs, {column}"].measured == 400
        assert found[f"batch size, {column}"].measured == 256
        for row in ("epochs", "batch size", "weight decay of the weights", "learning rate of the quantizers"):
            assert found[f"{row}, {column}"].value_verdict == "matches"
    assert 0.15 < abs(found["threshold between the two weight levels, 1/1"].measured) < 0.2
    assert found["batches seen by the BatchNorm after the first convolution"].measured == 0
    assert "not_run" not in {cell.value_verdict for cell in found.values()}
