"""The disagreement of released networks, of measurements made up for it."""

from paper_tables.audit import discordance, significance
from paper_tables.cells import Cell
from paper_tables.tables import Options


def disagreements(*counts, verdict=None):
    made = {}
    for job, count in zip(significance.jobs(Options()), counts, strict=True):
        detail = {"first alone": count / 4, "second alone": 3 * count / 4}
        made[job.place] = Cell(
            **job.place._asdict(), unit=job.unit, measured=count, images=10_000, detail=detail, value_verdict=verdict
        )
    return made


def test_the_disagreement_stands_beside_the_tipping_ones():
    table = significance.run(Options(), disagreements(1000.0, 700.0, 220.0))
    (sentence,) = (sentence for sentence in table.findings if "disagree" in sentence)
    assert "on 2.2 to 10.0 % of CIFAR-10's" in sentence
    wins = [cell for cell in table.cells if cell.claim_verdict and cell.measured > 0]
    counts = [sum(cell.detail.get("tipping", 0) > share * cell.images for cell in wins) for share in (0.022, 0.1)]
    assert f"{counts[1]} to {counts[0]} of the {len(wins)} wins" in sentence
    assert counts[0] > counts[1]
    rows = {cell.row: cell for cell in table.cells if cell.unit == "images"}
    assert len(rows) == 3
    cell = rows["right in only one of the released FP and 1/1"]
    assert (cell.measured, cell.claim_verdict) == (1000, None)
    assert cell.reason == "10.0 % of 10000 test images; 250 the one, 750 the other"


def test_a_disagreement_that_is_stale_or_not_run_says_nothing():
    for verdict in ("stale", "not run"):
        table = significance.run(Options(), disagreements(1000.0, 700.0, 220.0, verdict=verdict))
        assert not any("disagree" in sentence for sentence in table.findings)


def test_what_the_job_counts(tmp_path, monkeypatch):
    class Images:
        images, labels = "images", range(400)

    right = {
        "cifar10_fp.pth": [True] * 300 + [False] * 100,
        "cifar10_W1A1.pth": [False] * 20 + [True] * 310 + [False] * 70,
    }
    monkeypatch.setattr(discordance.cifar10, "load", lambda folder, split: Images)
    monkeypatch.setattr(discordance.checkpoints, "read", lambda path, sha256: path.name)
    monkeypatch.setattr(discordance.checkpoints, "load", lambda name, arch, method, bits: (name, arch, method, bits))
    asked = []

    def answer(model, images, labels, *, mean, std, progress):
        asked.append((model, images, mean, std))
        progress(400)
        return right[model[0]]

    monkeypatch.setattr(discordance.disagreement, "right", answer)
    job = significance.jobs(Options(data=tmp_path, checkpoints=tmp_path))[0]
    parts = []
    found = job.run(parts.append)
    assert (found.measured, found.images) == (50, 400)
    assert found.detail == {"first alone": 20, "second alone": 30}
    assert parts == [0.0, 0.5, 1.0]
    assert [model for model, *_ in asked] == [
        ("cifar10_fp.pth", "resnet20_released", None, (None, None)),
        ("cifar10_W1A1.pth", "resnet20_released", "daq", (1, 1)),
    ]
    assert asked[0][2:] == discordance.checkpoints.NORMALIZATIONS["imagenet"]
