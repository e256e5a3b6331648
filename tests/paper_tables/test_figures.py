"""The data figures: every curve against the papers' formulas for one number, and the pictures as files."""

import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from paper_tables import figure3, figure4, figure5, figure6, figures, runs
from paper_tables.cells import Cell
from paper_tables.tables import InputError, Options

ROOT = Path(figures.__file__).parents[1]
# Those of formulas; Figure 6 shows what was measured, and is tested in test_figure6.py.
MODULES = {"3": figure3, "4": figure4, "5": figure5}
NOT_LINES = ("samples", "points of tangency", "tangents")
KAPPA = {"paper": math.exp(-1 / 2), "released": math.exp(-1)}  # sigma = 1
KAPPA_ACTIVATION = math.exp(-1 / 8)  # sigma = 2
LAMBDA = 1 / (math.exp(2) + 1)
STEP = 2.0**-20  # of finite differences


# The formulas, for one number. `at` decides the cell and the nearest level.


def scores(x, kappa, at=None):
    """Eq. 4 and 8."""
    at = x if at is None else at
    q = math.floor(at)
    d_f, d_c = math.exp(q - x), math.exp(x - q - 1)
    return (d_f, kappa * d_c) if at - q <= 0.5 else (kappa * d_f, d_c)


def phi(x, beta, kappa, at=None):
    """Eq. 5 and 6 for two levels: a logistic of the difference of the scores."""
    s_f, s_c = scores(x, kappa, at)
    return math.floor(x if at is None else at) + 1 / (1 + math.exp(beta * (s_f - s_c)))


def temperature(x, kappa=KAPPA["paper"]):
    """Eq. 7 with gamma = 2."""
    s_f, s_c = scores(x, kappa)
    return 2 / abs(s_f - s_c)


def rescaled(y, x):
    """Eq. 10 with gamma = 2."""
    q_t = math.floor(x) + 0.5
    return (y - q_t) / (1 - 2 * LAMBDA) + q_t


def rounding(x):
    """Eq. 11."""
    return math.ceil(x - 0.5)


def slope(function, x):
    """Central finite difference of ``function(x, at)`` in its first argument."""
    return (function(x + STEP, x) - function(x - STEP, x)) / (2 * STEP)


def phi_slope(x, beta, kappa):
    return slope(lambda y, at: phi(y, beta, kappa, at), x)


def daq_slope(x, kappa):
    beta = temperature(x, kappa)
    return slope(lambda y, at: rescaled(phi(y, beta, kappa, at), at), x)


def dsq_slope(x, alpha):
    K = math.log(2 / alpha - 1)
    return slope(lambda y, at: math.tanh(K * (y - math.floor(at) - 0.5)) / (1 - alpha) / 2, x)


def staircase(x, temperature):
    """A sigmoid for each half-integer, from -6 on, which is the level there: the same as from far below on."""
    return -6 + sum(1 / (1 + math.exp(-temperature * (x - k - 0.5))) for k in range(-6, 7))


def number(pattern, name):
    return float(re.search(pattern, name)[1])


def expected(figure, name):
    """Return the formula of a line, by the name that `curves` gives it."""
    if "sigmoids" in name:
        sharpness = number(r"T = ([\d.]+)", name)
        if name.startswith("slope of"):
            return lambda x: slope(lambda y, _: staircase(y, sharpness), x)
        return lambda x: staircase(x, sharpness)
    if name == "rounding" or name in ("staircase", "f(phi), beta*"):
        return rounding
    if name == "phi, beta*":  # Eq. 9
        return lambda x: LAMBDA if x <= 0.5 else 1 - LAMBDA
    if name == "f(phi) of one input":
        return lambda x: rescaled(phi(x, temperature(figure4.SHOWN_INPUT), KAPPA["paper"]), x)
    if name == "phi', beta*":
        return lambda x: phi_slope(x, temperature(x), KAPPA["paper"])
    if name.startswith("DAQ"):
        return lambda x: daq_slope(x, KAPPA["paper"] if "weight" in name else KAPPA_ACTIVATION)
    if name.startswith("DSQ"):
        return lambda x: dsq_slope(x, number(r"alpha = ([\d.]+)", name))
    if name == "STE":
        return lambda x: 1.0
    kappa = KAPPA["released" if name.endswith("released") else "paper"]
    beta = number(r"beta = ([\d.]+)", name)
    function = phi_slope if name.startswith(("phi'", "slope of phi")) else phi
    return lambda x: function(x, beta, kappa)


LINES = [(n, name) for n, module in MODULES.items() for name in module.curves() if not name.startswith(NOT_LINES)]


@pytest.mark.parametrize(("figure", "name"), LINES)
def test_every_line_is_what_the_formulas_say(figure, name):
    x, y = MODULES[figure].curves()[name]
    assert np.array_equal(np.isnan(x), np.isnan(y))
    formula = expected(figure, name)
    for at, value in zip(x[~np.isnan(x)].tolist(), y[~np.isnan(x)].tolist(), strict=True):
        assert value == pytest.approx(formula(at), rel=1e-6, abs=1e-9), f"figure {figure}, {name}, at x = {at!r}"


@pytest.mark.parametrize(("figure", "name"), LINES)
def test_no_line_crosses_a_jump_and_each_reaches_it_from_both_sides(figure, name):
    x, _ = MODULES[figure].curves()[name]
    pieces = {(rounding(a), math.floor(a)) for a in x[~np.isnan(x)].tolist()}
    runs = [[]]
    for a in x.tolist():
        if math.isnan(a):
            runs.append([])
        else:
            runs[-1].append(a)
    assert [len({(rounding(a), math.floor(a)) for a in run}) for run in runs] == [1] * len(runs)
    assert len(runs) == len(pieces)
    for before, after in itertools.pairwise(runs):
        assert after[0] == math.nextafter(before[-1], math.inf)
    assert (runs[0][0], round(runs[-1][-1])) in {(0, 1), (0, 3), (1, 2)}


def test_the_samples_are_where_the_adaptive_temperature_is_that_of_the_line():
    for beta in (3, 4, 6, 7):
        x, y = figure4.curves()[f"samples, beta* = {beta}"]
        assert [temperature(a) for a in x.tolist()] == pytest.approx([beta, beta], rel=1e-12)
        assert y.tolist() == pytest.approx([LAMBDA, 1 - LAMBDA], rel=1e-12)
        same, slopes = figure5.curves()[f"samples, beta* = {beta}"]
        assert same.tolist() == x.tolist()
        assert slopes.tolist() == pytest.approx([phi_slope(a, beta, KAPPA["paper"]) for a in x.tolist()], rel=1e-8)
    assert figure4.samples(4.0)[0] == pytest.approx(0.2428, abs=5e-5)  # x_1
    assert figure4.samples(6.0)[0] == pytest.approx(0.4041, abs=5e-5)  # x_2


def test_the_released_kernel_has_no_second_sample():
    largest = max(temperature(i / 1000, KAPPA["released"]) for i in range(1001))
    assert largest < 6
    assert f"ends at {largest:.2f}, so that there is no x_2" in figure4.CAPTION


def test_tangents_touch_the_staircase_with_the_slope_of_the_input_s_own_function():
    curves = figure4.curves()
    at, level = (values.tolist() for values in curves["points of tangency"])
    ends = [np.reshape(values, (-1, 3)) for values in curves["tangents"]]
    assert len(at) == len(ends[0]) > 6
    assert {rounding(x) for x in at} == {0, 1, 2, 3}
    for x, y, (x0, x1, gap), (y0, y1, _) in zip(at, level, *ends, strict=True):
        assert y == pytest.approx(rounding(x), abs=1e-12)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((x, y))
        assert (y1 - y0) / (x1 - x0) == pytest.approx(daq_slope(x, KAPPA["paper"]), rel=1e-6)
        assert math.hypot(x1 - x0, y1 - y0) == pytest.approx(figure4.TANGENT_LENGTH)
        assert math.isnan(gap)
    assert figure4.SHOWN_INPUT in at


def test_released_slopes_are_smaller_and_outputs_nearer_to_the_rounding():
    curves = figure3.curves()
    for beta in figure3.COMPARED_BETAS:
        paper, released = (f"phi, beta = {beta:g}, {variant}" for variant in ("paper", "released"))
        x, y = curves[paper]
        inside = ~np.isnan(x)
        gap = np.abs(y - curves["rounding"][1])[inside]
        assert (np.abs(curves[released][1] - curves["rounding"][1])[inside] < gap).all()
        assert (curves[f"slope of {released}"][1] < curves[f"slope of {paper}"][1])[inside].all()


def cell_mean(name):
    x, y = figure5.curves()[name]
    inside = ~np.isnan(x)
    return float(np.trapezoid(y[inside], x[inside]))


def test_the_means_that_figure_5_states():
    weight, activation = cell_mean("DAQ, weight"), cell_mean("DAQ, activation")
    assert f"DAQ has {weight:.2f} for weights and {activation:.2f} for activations" in figure5.CAPTION
    for name in figure5.curves():
        if name.startswith(("STE", "DSQ")):
            assert cell_mean(name) == pytest.approx(1, abs=1e-4)
    texts = [text.get_text() for text in figure5.draw().axes[1].get_legend().get_texts()]
    assert f"DAQ, weights ({weight:.2f})" in texts
    assert f"DAQ, activations ({activation:.2f})" in texts


def test_the_numbers_in_the_captions():
    below, above = phi(0.5, 24, KAPPA["paper"]), phi(math.nextafter(0.5, 1), 24, KAPPA["paper"])
    assert f"at beta = 24 by {above - below:.2f}" in figure3.CAPTION
    assert f"it is {phi_slope(0.5, 24, KAPPA['paper']):.3f}, against {24 / 4:g} of the sigmoids" in figure3.CAPTION
    assert f"beta = 24 is {phi_slope(0.5, 24, KAPPA_ACTIVATION):.2f}, not small" in figure3.CAPTION
    gaps = [phi(0.5, 4, KAPPA[variant]) for variant in ("released", "paper")]
    assert "within {:.2f} in place of {:.2f}".format(*gaps) in figure3.CAPTION
    slopes = [daq_slope(x, KAPPA["paper"]) for x in (STEP, 0.5)]
    assert "{:.2f} at a level to {:.2f} at a transition point".format(*slopes) in figure4.CAPTION
    assert f"from {temperature(0.0):.2f} to {temperature(0.5):.2f}" in figure4.CAPTION
    ratio = daq_slope(0.3, KAPPA["paper"]) / phi_slope(0.3, temperature(0.3), KAPPA["paper"])
    assert f"{ratio:.3f} times it" in figure5.CAPTION
    # the mean over a cell, by Simpson's rule on half of it
    for sigma, words in ((1, "(with the released kernel {:.2f} and"), (2, " and {:.2f}), which")):
        y = [daq_slope(i / 200 + STEP / 2, math.exp(-1 / sigma**2)) for i in range(101)]
        mean = (y[0] + y[-1] + 4 * sum(y[1:-1:2]) + 2 * sum(y[2:-1:2])) / 300
        assert words.format(mean) in figure5.CAPTION


@pytest.mark.parametrize("number", MODULES)
def test_a_title_and_a_short_caption(number):
    module = figures.script(number)
    assert module is MODULES[number]
    assert "\n" not in module.TITLE
    sentences = re.split(r"(?<=[.])\s+", module.CAPTION)
    assert 2 <= len(sentences) <= 4
    assert "the paper" in module.CAPTION


@pytest.mark.parametrize("number", MODULES)
def test_everything_is_drawn_and_no_more(number):
    module = MODULES[number]
    drawn = [np.array(line.get_data(), float) for axes in module.draw().axes for line in axes.get_lines()]
    for name, curve in module.curves().items():
        assert any(np.array_equal(np.array(curve), data, equal_nan=True) for data in drawn), name
    known = [np.array(curve) for curve in module.curves().values()]
    others = [d for d in drawn if not any(np.array_equal(d, k, equal_nan=True) for k in known)]
    assert all(data.shape[1] in (0, 2) for data in others)  # proxies of the legend, and vertical lines that mark an x
    assert all(len(set(data[0])) <= 1 for data in others)


@pytest.mark.parametrize("number", MODULES)
def test_lines_of_one_panel_differ_without_colour(number):
    for axes in MODULES[number].draw().axes:
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        looks = [(line.get_linewidth(), str(line._unscaled_dash_pattern), line.get_marker()) for line in named]
        assert len(set(looks)) == len(looks) > 2


@pytest.mark.parametrize("number", MODULES)
def test_nothing_is_clipped_overlaps_or_hides_a_curve(number):
    figure = MODULES[number].draw()
    FigureCanvasAgg(figure).draw()  # lays it out
    renderer = figure.canvas.get_renderer()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox(renderer)
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    legends = {axes: axes.get_legend().get_window_extent(renderer) for axes in figure.axes if axes.get_legend()}
    for axes in figure.axes:
        legend = legends.get(axes)
        if legend is None:
            continue
        assert sum(legend.overlaps(other) for other in legends.values()) == 1
        assert axes.get_xlabel()
        for line in axes.get_lines():
            points = axes.transData.transform(np.transpose(line.get_data()).astype(float).reshape(-1, 2))
            if len(points) > 2:
                assert legend.count_contains(points[np.isfinite(points).all(1)]) == 0, line.get_label()
        ticks = [label.get_window_extent(renderer) for label in axes.get_xticklabels() if label.get_visible()]
        ticks = sorted((tick for tick in ticks if tick.width), key=lambda tick: tick.x0)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(ticks))


@pytest.mark.parametrize("number", MODULES)
def test_files_are_valid_small_and_the_same_again_whatever_the_user_s_settings(number, tmp_path):
    png, svg = figures.save(number, tmp_path / "new" / "folder")
    assert (png.name, svg.name) == (f"figure{number}.png", f"figure{number}.svg")
    assert sorted(path.name for path in png.parent.iterdir()) == [png.name, svg.name]
    assert png.stat().st_size < 300_000
    assert svg.stat().st_size < 2**20
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert image.size[0] == {"3": 1800}.get(number, 1350)
        assert not {"Software", "Creation Time"} & image.info.keys()
    root = ElementTree.parse(svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<dc:date>" not in svg.read_bytes()
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": None, "savefig.dpi": 30}):
        again = figures.save(number, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]


@pytest.mark.parametrize("number", MODULES)
def test_every_line_is_labelled_directly_and_labels_do_not_overlap(number):
    figure = MODULES[number].draw()
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        labels = [text for text in axes.texts if text.get_text()]
        colors = {to_hex(label.get_color()) for label in labels}
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_xdata())]
        assert {to_hex(line.get_color()) for line in named} - {to_hex(figures.PALE)} <= colors
        boxes = [Text.get_window_extent(label, renderer) for label in labels]  # without its leader
        for one, other in itertools.combinations(boxes, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            below = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 0 or below <= 0.35 * min(one.height, other.height)


@pytest.mark.parametrize("number", MODULES)
def test_gamma_and_sigma_are_in_the_picture(number):
    texts = " ".join(
        text for axes in MODULES[number].draw().axes for text in (axes.get_title(), *(t.get_text() for t in axes.texts))
    )
    assert re.search(r"\\sigma\$ = \d", texts)
    assert number == "3" or re.search(r"\\gamma\$ = 2", texts)


def test_a_colour_means_the_same_in_all_figures():
    """A temperature has one colour; a method has one, which no temperature has."""
    of_temperature = {}
    for module in MODULES.values():
        for axes in module.draw().axes:
            for line in axes.get_lines():
                found = re.search(r"beta\$ = (\d+)(?:, paper|, released)?$", line.get_label())
                if found:
                    of_temperature.setdefault(float(found[1]), set()).add(to_hex(line.get_color()))
    assert {beta: {to_hex(color)} for beta, color in figures.TEMPERATURES.items()} == of_temperature
    methods = {figures.DAQ_WEIGHTS, figures.DAQ_ACTIVATIONS, figures.STE, figures.DSQ, figures.COMBINED_STE}
    methods |= {figures.ANNEALING, figures.BLACK}
    assert len(methods) == 7
    assert not methods & set(figures.TEMPERATURES.values())
    assert {color for color, _, _ in figure6.LINES.values()} <= methods | set(figures.TEMPERATURES.values())


def test_labels_are_dark_enough_for_text():
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, color in figures.HUES.items():
        assert 1.05 / (luminance(color) + 0.05) >= 4.5, name


def runs_of(accuracies):
    """Cells of runs, as `figure6` is given them: for each contender the accuracy after each epoch, a seed each."""
    measured = {}
    for contender, by_seed in accuracies.items():
        for seed, accuracy in enumerate(by_seed):
            place = runs.place(contender, "1/1", "smoke", seed)
            measured[place] = Cell(
                **place._asdict(), unit="percent", measured=accuracy[-1], seeds=(seed,), detail={"accuracy": accuracy}
            )
    return measured


def test_training_curves_are_means_with_labels_at_their_ends():
    given = {
        contender: [(10.0 + i, 20.0 + i, 30.0 + 0.1 * i), (12.0 + i, 22.0 + i, 34.0 + 0.1 * i)]
        for i, contender in enumerate(figure6.LINES)
    }
    figure = figure6.draw(Options(profile="smoke", seeds=2), runs_of(given))
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    (axes,) = figure.axes
    for line, (contender, (color, _, label)) in zip(axes.get_lines(), figure6.LINES.items(), strict=True):
        expected = [(a + b) / 2 for a, b in zip(*given[contender], strict=True)]
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == pytest.approx(expected)
        assert line.get_color() == color
        (text,) = (text for text in axes.texts if text.get_text() == f"{label} (2)")
        assert text.get_color() == color
    boxes = sorted((Text.get_window_extent(text, renderer) for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == len(given)
    assert all(below.y1 <= above.y0 + 0.35 * below.height for below, above in itertools.pairwise(boxes))
    assert figure.get_tightbbox(renderer).x1 <= figure.get_size_inches()[0]


def test_one_epoch_is_a_point():
    given = {figure6.runs.DAQ: [(40.0,)], figure6.runs.STE: [(45.0,)]}
    (axes,) = figure6.draw(Options(profile="smoke", seeds=1), runs_of(given)).axes
    assert {line.get_marker() for line in axes.get_lines()} == {"o"}
    low, high = axes.get_xlim()
    assert low < 1 < high


def test_without_runs_the_picture_says_so():
    figure = figure6.draw(Options(profile="smoke"), {})
    assert [text.get_text() for text in figure.texts] == ["no run is recorded"]


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    old = tmp_path / "figure4.png"
    old.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        figures.save("4", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figure4.png"]
    assert old.read_bytes() == b"old"


def test_nothing_is_written_if_a_picture_cannot_be_drawn(tmp_path, monkeypatch):
    render = figures.render

    def fail_on_svg(figure, suffix):
        if suffix == "svg":
            raise RuntimeError("no svg")
        return render(figure, suffix)

    monkeypatch.setattr(figures, "render", fail_on_svg)
    with pytest.raises(RuntimeError, match="no svg"):
        figures.save("4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", ["7", "", "figure3", "03"])
def test_an_unknown_figure_is_refused_with_what_is_admitted(number, tmp_path):
    with pytest.raises(InputError, match=f"figure must be one of 3, 4, 5, 6, S1, S2, S3, S4, got '{number}'"):
        figures.save(number, tmp_path)


def test_a_figure_s_script_runs_alone_and_without_pyplot(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "paper_tables.figure4", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [str(tmp_path / "figure4.png"), str(tmp_path / "figure4.svg")]
    assert figure4.CAPTION in done.stdout
    assert (tmp_path / "figure4.svg").is_file()
    assert "matplotlib.figure" in done.stderr
    assert "matplotlib.pyplot" not in done.stderr


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.integers(1, 10), st.integers(100, 120))
def test_labels_do_not_overlap_and_stay_below_the_top(ends, least, top):
    found = figures.apart(dict(enumerate(ends)), least, top=top)
    at = [found[i] for i in sorted(found, key=lambda i: ends[i])]
    assert all(above - below >= least - 1e-6 for below, above in itertools.pairwise(at))
    assert max(at) <= top
    if all(abs(a - b) >= least for a, b in itertools.combinations(ends, 2)):
        assert found == pytest.approx(dict(enumerate(ends)))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert figures.main_for("4", ["--out", str(tmp_path / "file" / "folder")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"--out {tmp_path / 'file' / 'folder'}: Not a directory" in err


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--nonsense"], 2)])
def test_options(arguments, status, capsys):
    with pytest.raises(SystemExit) as stop:
        figures.main_for("5", arguments)
    assert stop.value.code == status
    assert "python -m paper_tables.figure5" in "".join(capsys.readouterr())
