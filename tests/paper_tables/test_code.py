"""Paper against released code: each number against a computation of its own."""

import math

import numpy as np
import pytest

from paper_tables import cells
from paper_tables.audit import code
from paper_tables.tables import Options


@pytest.fixture(scope="module")
def computed():
    return {cell.row: cell for cell in code.run(Options()).cells}


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


def test_without_checkpoints_the_rows_are_listed_as_not_run(monkeypatch):
    monkeypatch.setattr(cells, "recorded", lambda cell: cell)
    found = [cell for cell in code.run(Options()).cells if cell.command]
    assert len(found) == 16
    assert {cell.value_verdict for cell in found} == {"not run"}
    assert all("--checkpoints" in cell.reason for cell in found)


def history(*, lr=0.1, decay=1e-4, q_lr=1e-4, q_decay=0.0, epochs=400):
    return {
        "optimizer_dict": {"param_groups": [{"initial_lr": lr, "weight_decay": decay, "momentum": 0.9}]},
        "q_optimizer_dict": {"param_groups": [{"initial_lr": q_lr, "weight_decay": q_decay}]},
        "scheduler_dict": {"last_epoch": epochs},
    }


@pytest.mark.parametrize("batch", [64, 100, 128, 256, 512])
@pytest.mark.parametrize("epochs", [1, 200, 400])
def test_forensics_recover_what_was_planted(batch, epochs):
    steps = -(-50_000 // batch) * epochs
    found = code.read_forensics(history(lr=0.03, q_lr=0.002, epochs=epochs), before=77, counter=77 + steps)
    assert found["epochs"][0] == epochs
    # of the batch sizes that give as many steps, the smallest is named
    assert math.ceil(50_000 / found["batch size"][0]) == math.ceil(50_000 / batch)
    assert found["learning rate of the weights"][0] == 0.03
    assert found["learning rate of the quantizers"][0] == 0.002


def test_released_checkpoints(cifar10_root, checkpoint_root):
    found = {cell.row: cell for cell in code.run(Options(data=cifar10_root, checkpoints=checkpoint_root)).cells}
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
