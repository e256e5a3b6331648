"""Table 5's judging, of measurements made up for it: no data, no checkpoints."""

import dataclasses
import itertools
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paper_tables import cells, jobs, reported, table5, tables
from paper_tables.cells import Measurement
from paper_tables.tables import Options
from torchimpl.evaluation import Count

PRINTED = reported.tables()["5"]
OURS = {column: printed.value for column, printed in PRINTED.row("Ours").values.items()}
COLUMNS = {"FP": "91.4", "1/1": "85.8", "1/32": "91.2"}  # as the paper prints them
IMAGES = 10_000
CI95 = (84.0, 92.0)


def counts_near(printed):
    """Right answers near what is printed, at the edges of what is reproduced, and anywhere."""
    wanted = int(Decimal(printed) * 100)
    off = st.one_of(st.integers(-30, 30), st.sampled_from([-6, -5, 0, 5, 6]))
    return st.one_of(off.map(lambda k: wanted + k), st.integers(0, IMAGES))


COUNTS = st.fixed_dictionaries({column: counts_near(printed) for column, printed in COLUMNS.items()})


def measured(job, correct, images=IMAGES, **more):
    fields = {
        "measured": 100 * correct / images,
        "ci95": CI95,
        "runs": 1,
        "images": images,
        "selection": "last",
        "protocol": table5.PROTOCOL,
        **more,
    }
    return Measurement(**job.place._asdict(), unit=job.unit, key=job.key, **fields)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty ``results/``, and no training: the rows of training runs are tested in test_trained.py."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(table5.runs, "jobs", lambda options, contenders: [])
    return tmp_path / "results"


def regenerated(results, counts, **more):
    """The table as it is built from files in results/."""
    for job in (job for job in table5.jobs(Options()) if "checkpoints" in job.needs):
        cells.write(results, [measured(job, counts[job.place.column], **more)])
    (table,), _ = jobs.regenerate([table5], Options(out=results.parent / "out", quiet=True, profile="cifar10"))
    return table


def test_what_the_paper_prints():
    assert {column: str(value) for column, value in OURS.items()} == COLUMNS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(counts=COUNTS)
def test_verdicts_and_sentences_are_those_of_the_counts(counts, results):
    table = regenerated(results, counts)
    ours = {cell.column: cell for cell in table.cells if cell.row == "Ours"}
    assert list(ours) == list(COLUMNS)
    wrong, above = [], []
    for column in COLUMNS:
        cell, printed, correct = ours[column], Fraction(COLUMNS[column]), counts[column]
        accuracy = Fraction(100 * correct, IMAGES)
        right = abs(accuracy - printed) <= Fraction(1, 20)
        assert cell.value_verdict == ("matches" if right else "released file differs")
        assert (cell.reported, cell.measured) == (COLUMNS[column], pytest.approx(float(accuracy)))
        selection = None if column == "FP" else "last"  # whatever was recorded of it
        assert (cell.runs, cell.images, cell.ci95, cell.selection) == (1, IMAGES, CI95, selection)
        assert cell.protocol == table5.PROTOCOL
        assert cell.recorded
        off = correct - printed * IMAGES / 100
        counted = f"{abs(off)} images {'more' if off > 0 else 'fewer'} than printed" if off else "as printed"
        percent = Decimal(correct).scaleb(-2).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        said = f"{correct} of {IMAGES} images are right ({percent} %), {counted}"
        assert cell.reason.endswith(f"; {said}")
        apart = abs(accuracy - printed) - Fraction(1, 20)
        edge = "exactly 0.05 off" if apart == 0 else "within 0.05 of" if apart < 0 else "not within 0.05 of"
        assert cell.reason.startswith(f"{edge} {COLUMNS[column]} %; ")
        if not right:
            interval = cell.reason.split("; ")[1]
            assert interval.startswith("the 95 % interval for other test images, ")
            if column != "FP":  # of which nothing tells that it is a last epoch
                above.append(accuracy > printed)
            wrong.append(
                f"{column}: the paper prints {COLUMNS[column]} %; with the released checkpoint {said}; {interval}."
            )
    mixed = len(set(above)) == 2
    assert table.wrong == ()  # another run refutes no printed number
    assert list(table.findings[: len(wrong)]) == wrong
    assert len(table.findings) >= len(wrong) + mixed
    assert mixed == any(
        sentence.startswith("One checkpoint is below what is printed and one above.") for sentence in table.findings
    )


OFF = [-100, 0, 100]  # images


@pytest.mark.parametrize("off", [*itertools.product(OFF, OFF, OFF)], ids=str)
def test_the_sentence_on_last_epochs_takes_one_below_and_one_above(off, results):
    counts = {column: int(Decimal(p) * 100) + k for (column, p), k in zip(COLUMNS.items(), off, strict=True)}
    said = [sentence for sentence in regenerated(results, counts).findings if "One checkpoint is below" in sentence]
    assert len(said) == (min(off[1:]) < 0 < max(off[1:]))  # of the full-precision file the epoch is not known


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.sampled_from([100, 400, 5000, 10_000]), data=st.data())
def test_the_images_counted_are_those_measured(images, data, results):
    counts = {column: data.draw(st.integers(0, images)) for column in COLUMNS}
    for cell in regenerated(results, counts, images=images).cells:
        if cell.row == "Ours":
            assert f"{counts[cell.column]} of {images} images are right" in cell.reason
            assert cell.images == images


def test_rivals_are_listed_as_printed_and_never_judged(results):
    table = regenerated(results, dict.fromkeys(COLUMNS, 9000))
    rivals = [cell for cell in table.cells if cell.row != "Ours"]
    assert len(rivals) == 11
    for cell in rivals:
        assert Decimal(cell.reported) == PRINTED.row(cell.row).values[cell.column].value
        assert (cell.measured, cell.value_verdict, cell.reason) == (None, "not run", table5.OTHERS)


def test_a_stale_measurement_is_shown_and_not_judged(results):
    for job in (job for job in table5.jobs(Options()) if "checkpoints" in job.needs):
        cells.write(results, [dataclasses.replace(measured(job, 100), key="of other sources")])
    (table,), _ = jobs.regenerate([table5], Options(out=results.parent / "out", quiet=True, profile="cifar10"))
    assert {cell.value_verdict for cell in table.cells if cell.row == "Ours"} == {"stale"}
    assert table.wrong == ()


def test_nothing_measured_is_nothing_wrong(results):
    (table,), _ = jobs.regenerate([table5], Options(out=results.parent / "out", quiet=True, profile="cifar10"))
    assert {cell.value_verdict for cell in table.cells} == {"not run"}
    assert table.wrong == ()
    assert {cell.reported for cell in table.cells if cell.row == "Ours"} == set(COLUMNS.values())


class Images:
    images, labels = "images", range(400)


@pytest.mark.parametrize("column", COLUMNS)
def test_what_a_job_measures(column, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(table5.cifar10, "load", lambda folder, split: asked.update(data=(folder, split)) or Images)
    monkeypatch.setattr(
        table5.checkpoints, "read", lambda path, sha256: asked.update(file=(path.name, sha256)) or "checkpoint"
    )
    monkeypatch.setattr(table5.checkpoints, "load", lambda *arguments: asked.update(model=arguments) or "model")

    def count_correct(model, images, labels, *, mean, std, progress):
        asked.update(counted=(model, images, labels, mean, std))
        progress(100)
        progress(300)
        return Count(343, 0)

    monkeypatch.setattr(table5.evaluation, "count_correct", count_correct)
    (job,) = (job for job in table5.jobs(Options(data=tmp_path, checkpoints=tmp_path)) if job.place.column == column)
    parts = []
    found = job.run(parts.append)
    released = table5.RELEASED[column]
    assert asked["data"] == (tmp_path, "test")
    assert asked["file"] == (released.filename, released.sha256)
    assert asked["model"] == ("checkpoint", "resnet20_released", None if column == "FP" else "daq", released.bits)
    assert asked["counted"] == ("model", "images", Images.labels, *table5.checkpoints.NORMALIZATIONS["imagenet"])
    assert parts == [0.0, 0.25, 1.0]
    selection = None if column == "FP" else "last"
    assert (found.measured, found.images, found.runs, found.seeds, found.selection) == (85.75, 400, 1, None, selection)
    # Wilson's interval of 343 of 400: the roots of (x - p)^2 = z^2 x (1 - x)/n
    assert all(
        abs((end / 100 - 0.8575) ** 2 - 1.959963984540054**2 * end / 100 * (1 - end / 100) / 400) < 1e-9
        for end in found.ci95
    )
    assert found.ci95[0] < 85.75 < found.ci95[1]
    assert found.protocol == table5.PROTOCOL


def test_refused_data_are_bad_input(tmp_path, monkeypatch):
    (job, *_rest) = table5.jobs(Options(data=tmp_path, checkpoints=tmp_path))
    with pytest.raises(tables.InputError):
        job.run(lambda part: None)
