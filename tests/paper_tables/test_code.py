"""Paper against released code: each number against a computation of its own."""

import math

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


def test_kernels(computed):
    for role, sigma in (("weights", 1.0), ("activations", 2.0)):
        cell = computed[f"kernel at the farther level, {role}"]
        assert cell.reported.startswith(f"{math.exp(-1 / (2 * sigma**2)):.4f} ")
        assert cell.measured == pytest.approx(math.exp(-1 / sigma**2))
        assert cell.value_verdict == "contradicted"


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
    assert len(found) == 16
    assert {cell.value_verdict for cell in found} == {"not run"}
    assert all("--checkpoints" in cell.reason for cell in found)
    assert all(cell.reported for cell in found)


@pytest.mark.parametrize(
    ("row", "value", "detail", "verdict", "says"),
    [
        ("learning rate of the weights, 1/1", 0.1, {"momentum": 0.9}, "contradicted", "is 0.1, its momentum 0.9"),
        ("learning rate of the weights, 1/1", 0.01, {"momentum": 0.9}, "reproduced", "is 0.01"),
        ("weight decay of the quantizers, 1/32", 0.0, {}, "reproduced", "weight_decay is 0"),
        ("epochs, 1/1", 400.0, {}, "reproduced", "no best epoch"),
        ("batch size, 1/1", 128.0, {"batches": 8, "batches an epoch": 2.0}, "contradicted", "8 batches more"),
        ("threshold between the two weight levels, 1/1", 0.2, {"layer": "layer1"}, None, "farthest from 0, layer1"),
        (
            "batches seen by the BatchNorm after the first convolution",
            7.0,
            {"others": 7, "features": 64},
            "reproduced",
            "over its 64 features",
        ),
        (
            "batches seen by the BatchNorm after the first convolution",
            0.0,
            {"others": 7, "features": 64},
            "contradicted",
            "it saw 0 batches where the others saw 7",
        ),
        (
            "output scale in the very first batch, 1/32",
            3.0,
            {"least": 0.1, "greatest": 0.6, "layers": 18},
            "contradicted",
            "0.100 to 0.600 would be right (18 layers",
        ),
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
        assert found[f"learning rate of the weights, {column}"].value_verdict == "contradicted"
        assert found[f"epochs, {column}"].measured == 400
        assert found[f"batch size, {column}"].measured == 256
        for row in ("epochs", "batch size", "weight decay of the weights", "learning rate of the quantizers"):
            assert found[f"{row}, {column}"].value_verdict == "reproduced"
    assert 0.15 < abs(found["threshold between the two weight levels, 1/1"].measured) < 0.2
    assert found["batches seen by the BatchNorm after the first convolution"].measured == 0
    assert "not_run" not in {cell.value_verdict for cell in found.values()}
