"""Figure 6: every accuracy of every run, as it was after each epoch."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from paper_tables import figure6, figures, runs
from paper_tables.tables import Options
from tests.paper_tables import made_up

CURVES = {0: (10.0, 30.0, 50.0), 1: (20.0, 40.0, 45.0), 2: (15.0, 20.0, 70.0)}


def measured(profile, contenders=tuple(figure6.LINES), curves=CURVES):
    return made_up.by_place(
        made_up.run(one, "1/1", profile, seed, curve[-1], detail={"accuracy": tuple(v + i for v in curve)})
        for i, one in enumerate(contenders)
        for seed, curve in curves.items()
    )


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_lines_are_means_over_seeds_and_shades_reach_from_the_least_to_the_greatest():
    figure = figure6.draw(Options(profile="embedded"), measured("embedded"))
    (axes,) = figure.axes
    assert axes.get_title() == "digits, 10 epochs"
    drawn = lines(axes)
    for i, (_, _, label) in enumerate(figure6.LINES.values()):
        assert drawn[label].get_xdata().tolist() == [1, 2, 3]
        assert drawn[label].get_ydata() == pytest.approx([15 + i, 30 + i, 55 + i])
        edges = axes.collections[i].get_paths()[0].vertices
        for epoch, low, high in ((1, 10, 20), (2, 20, 40), (3, 45, 70)):
            at = edges[edges[:, 0] == epoch][:, 1]
            assert (at.min(), at.max()) == pytest.approx((low + i, high + i))


def test_a_panel_for_each_profile_that_was_run():
    found = measured("embedded") | measured("cifar10-short", curves={0: (10.0, 20.0)})
    figure = figure6.draw(Options(profile="embedded"), found)
    assert [axes.get_title() for axes in figure.axes] == ["digits, 10 epochs", "CIFAR-10, 6 epochs"]
    assert all(axes.get_xlabel() == "epoch" for axes in figure.axes)
    some = figure6.draw(Options(profile="embedded"), measured("embedded", contenders=[runs.DAQ]))
    assert list(lines(some.axes[0])) == ["controller (DAQ)"]
    none = figure6.draw(Options(profile="embedded"), {})
    assert [text.get_text() for text in none.texts] == ["no run is recorded"]


def test_a_run_that_ended_early_ends_the_mean():
    """Without it the mean of the others would be drawn, which is another."""
    found = measured("embedded", contenders=[runs.DAQ], curves={0: (10.0, 30.0, 50.0), 1: (20.0, 50.0)})
    (line,) = figure6.draw(Options(profile="embedded"), found).axes[0].get_lines()
    assert line.get_ydata() == pytest.approx([15, 40])
    at_once = dict(made_up.by_place([made_up.run(runs.DAQ, "1/1", "embedded", 2, 10.0, detail={"accuracy": ()})]))
    assert figure6.curves(Options(profile="embedded"), found | at_once) == {}


def test_seeds_that_were_not_asked_for_are_not_drawn():
    found = figure6.curves(Options(profile="embedded", seeds=2), measured("embedded"))
    assert {curve.shape for curve in found["embedded"].values()} == {(2, 3)}


def test_lines_differ_without_colour_and_for_the_colour_blind():
    (axes,) = figure6.draw(Options(profile="embedded"), measured("embedded")).axes
    drawn = lines(axes).values()
    assert len({(line.get_linewidth(), str(line._unscaled_dash_pattern)) for line in drawn}) == len(figure6.LINES)
    assert len({to_hex(line.get_color()) for line in drawn}) == len(figure6.LINES)


def test_nothing_is_clipped_and_lines_have_their_names_beside_them():
    found = measured("embedded") | measured("cifar10-short") | measured("cifar10")
    figure = figure6.draw(Options(profile="embedded"), found)
    FigureCanvasAgg(figure).draw()  # lays it out
    renderer = figure.canvas.get_renderer()
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert (box.x1 <= width + 0.01, box.y1 <= height + 0.01) == (True, True)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} >= {f"{label} (3)" for _, _, label in figure6.LINES.values()}


def test_files_are_the_same_again(tmp_path):
    options, found = Options(profile="embedded"), measured("embedded")
    one, other = (figures.save("6", tmp_path / name, options, found) for name in "ab")
    assert [path.name for path in one] == ["figure6.png", "figure6.svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_what_is_drawn_is_measured():
    places = {job.place for job in figure6.jobs(Options(profile="embedded", seeds=1))}
    for contender in (runs.FULL_PRECISION, *figure6.LINES):
        for width in contender.widths:
            drawn = width in ("FP", "1/1")
            assert (runs.place(contender, width, "embedded", 0) in places) is drawn
