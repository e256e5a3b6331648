"""The table of ARM: which layers, sums and ratios recomputed from counts made up for it, and what is judged by them."""

import dataclasses
import importlib.machinery
import itertools
import sys
import types
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arm import build, count, kernels
from arm.counts import Counts
from paper_tables import arm_speed, arm_time, cells, jobs, tables
from paper_tables.audit import claims
from paper_tables.audit.claims import deployment
from paper_tables.audit.claims.judging import Evidence
from paper_tables.cells import Measurement
from paper_tables.tables import Options
from reference import integer
from tests.oracles import check_same
from torchimpl import sources

WIDTHS = ["8/8", "4/4", "3/3", "2/2", "1/1"]
# ResNet-18 behind its first convolution, from Table 1 of He et al.: channels in and out, size, kernel, stride; number
SHAPES = {
    (64, 64, 56, 3, 1): 4,
    **{(c, 2 * c, 56 * 64 // c, 3, 2): 1 for c in (64, 128, 256)},
    **{(c, 2 * c, 56 * 64 // c, 1, 2): 1 for c in (64, 128, 256)},
    **{(c, c, 56 * 64 // c, 3, 1): 3 for c in (128, 256, 512)},
}
ENGINES = {"NCNN 2019": 637, "NCNN 2026, GEMM": 420, "NCNN 2026, default": 188}  # millions of instructions, printed


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def equipped(monkeypatch):
    """With the packages, whether they are installed or not; kernels are not run."""
    monkeypatch.setattr(Options, "kernels", property(lambda self: "both"))


def table_of(counts):
    """The table of measurements: `counts` are instructions and other numbers by width."""
    names = ("instructions", "cycles", "neon", "requantization", "weight bytes", "weights")
    found = {}
    for job in arm_speed.jobs(Options()):
        detail = dict.fromkeys(names, 0) | counts[job.place.column]
        fields = {"measured": round(detail["instructions"] / 1e6, 3), "protocol": arm_speed.PROTOCOL, "detail": detail}
        measurement = Measurement(**job.place._asdict(), unit=job.unit, key=job.key, **fields)
        found[job.place] = jobs.shown(job, measurement, recorded=True)
    return arm_speed.run(Options(), found)


def by_place(table):
    return {(cell.row, cell.column): cell for cell in table.cells}


# Which layers


def test_the_layers_are_those_of_resnet_18():
    found = {same[0].key: len(same) for same in arm_speed.layers().values()}
    assert found == SHAPES
    assert sum(found.values()) == 19
    products = sum(n * i * o * k * k * (size // s) ** 2 for (i, o, size, k, s), n in SHAPES.items())
    assert products == 1_695_547_392  # of ResNet-18's 1.8 billion; the first convolution has 118 million
    assert all(len({layer.key for layer in same}) == 1 for same in arm_speed.layers().values())
    assert all(row.endswith(f" x{len(same)}") for row, same in arm_speed.layers().items())


def test_a_job_for_each_shape_and_width():
    found = arm_speed.jobs(Options())
    rows, columns = list(arm_speed.layers()), WIDTHS
    if not build.on_arm():
        assert [(job.place.row, job.place.column) for job in found] == list(itertools.product(rows, columns))
    assert len({job.key for job in found}) == len(found)
    for job in found[: len(rows) * len(columns)]:
        assert (job.place.paper, job.place.table, job.needs) == ("DSQ", "arm", ("kernels",))
        layer, bits, weights = job.measure.args
        assert layer == arm_speed.layers()[job.place.row][0]
        assert "/".join(map(str, bits)) == job.place.column
        assert weights == ("signed" if job.place.column == "8/8" else "odd")


def test_c_sources_and_modules_are_in_the_key(tmp_path, monkeypatch):
    before = {job.key for job in arm_speed.jobs(Options())}
    files = []
    for source in build.sources():
        files.append(tmp_path / source.name)
        files[-1].write_bytes(source.read_bytes())
    monkeypatch.setattr(build, "sources", lambda: files)
    assert {job.key for job in arm_speed.jobs(Options())} == before
    files[0].write_bytes(files[0].read_bytes() + b"\n/* another */\n")
    assert before.isdisjoint(job.key for job in arm_speed.jobs(Options()))
    files[0].write_bytes(files[0].read_bytes().removesuffix(b"\n/* another */\n"))
    assert {job.key for job in arm_speed.jobs(Options())} == before
    own = arm_speed.keys.key(["arm.count"], sources="")
    assert own != arm_speed.keys.key(["arm.counts"], sources="")
    for module in ("arm.build", "arm.counts", "arm.decode", "arm.emulator", "arm.kernels"):
        with monkeypatch.context() as patch:
            patch.setattr(sources, "_lines", sources._lines.__wrapped__)
            patch.setattr(sources, "_read", changed(sources._read, module))
            assert arm_speed.keys.key(["arm.count"], sources="") != own, module


def changed(read, module):
    """Read modules as they are, but one with another meaning."""
    path = cells.ROOT.joinpath(*module.split(".")).with_suffix(".py").read_bytes()

    def other(source, package):
        meaning, imports = read(source, package)
        return (meaning + "!" if source == path else meaning), imports

    return other


# What is measured


def test_what_is_counted_is_packing_convolving_and_requantizing():
    pytest.importorskip("ziglang", reason="ziglang is not installed: pip install quantgap[arm]")
    pytest.importorskip("unicorn", reason="unicorn is not installed: pip install quantgap[arm]")
    layer = count.Layer(5, 7, 6, 3, 2, "tiny")
    for bits, weights in (((2, 2), "odd"), ((8, 8), "signed"), ((1, 1), "odd")):
        found = arm_speed._measure(layer, bits, weights, lambda part: None)
        random = np.random.default_rng(1)  # other data than the counter's: instructions do not depend on them
        least = int(bits[0] == 8)  # -128 has a slower kernel; a baseline of 8 bits is symmetric
        w = random.integers(least, 2 ** bits[0], (7, 3, 3, 5), np.uint8)
        packed = kernels.pack_weights(w, bits=bits, weights=weights)
        x = random.integers(0, 2 ** bits[1], (1, 6, 6, 5), np.uint8)
        sums, counts = kernels.conv2d(x, packed, stride=2, padding=1, count=True)
        if bits[1] == 8:
            _, more = kernels.rescale(sums, np.full(7, 2**29), shift=3, count=True)
        else:
            limits = np.sort(random.integers(-9, 9, (7, 2 ** bits[1] - 1)), axis=1)
            _, more = kernels.requantize(sums, limits, count=True)
        detail = found["detail"]
        assert detail["instructions"] == counts.instructions + more.instructions
        assert detail["requantization"] == more.instructions
        assert (detail["cycles"], detail["neon"]) == ((counts + more).cycles, (counts + more).neon)
        assert (detail["weights"], detail["weight bytes"]) == (5 * 7 * 9, len(packed.data))
        assert found["measured"] == round(detail["instructions"] / 1e6, 3)
        assert detail["compiler"].startswith("ziglang ")


def test_measurements_can_be_recorded(tmp_path, results, equipped, monkeypatch):
    """They are the same on every machine: with --record they go to results/, and are not measured again."""
    pytest.importorskip("ziglang", reason="ziglang is not installed: pip install quantgap[arm]")
    asked = []

    def count_layer(layer, bits, *, weights):
        asked.append((layer, bits, weights))
        return count.Counted(Counts({"mla": 10**6 * bits[0]}), Counts({"scalar": 500}), 64)

    monkeypatch.setattr(count, "count_layer", count_layer)
    monkeypatch.setattr(build, "on_arm", lambda: False)
    options = Options(out=tmp_path / "out", record=True, quiet=True)
    (table,), _ = jobs.regenerate([arm_speed], options)
    assert len(asked) == len(list((results / "arm").iterdir())) == len(SHAPES) * len(WIDTHS)
    assert by_place(table)["layer1.0.conv1 x4", "3/3"].measured == 3.0 + 0.001  # 500 instructions, rounded to thousands
    (again,), _ = jobs.regenerate([arm_speed], dataclasses.replace(options, out=tmp_path / "other"))
    assert len(asked) == len(SHAPES) * len(WIDTHS)
    assert all(cell.recorded for cell in again.cells if cell.key)


# Sums, ratios, verdicts


AMOUNTS = st.fixed_dictionaries({width: st.integers(10**5, 10**8) for width in WIDTHS})
NEAR = st.builds(  # per layer; 19 layers: sums near what the verdicts turn on
    lambda best, own, rest: {"8/8": own, "4/4": rest, "3/3": rest, "2/2": best, "1/1": rest},
    st.sampled_from([188, 420, 637]).flatmap(
        lambda m: st.integers(-3, 3).map(lambda d: round(m * 1e6 / 19 / 1.65) + d * 1000)
    ),
    st.sampled_from([420, 637]).flatmap(
        lambda m: st.integers(-3, 3).map(lambda d: round(m * 1e6 / 19 / 1.25) + d * 1000)
    ),
    st.just(10**8),
)


@given(instructions=AMOUNTS | NEAR, cycles=st.integers(1, 10**8))
def test_sums_ratios_and_verdicts_are_those_of_the_counts(instructions, cycles):
    counts = {
        width: {"instructions": number, "cycles": cycles + number, "weights": 800, "weight bytes": 1000}
        for width, number in instructions.items()
    }
    table = table_of(counts)
    found = by_place(table)
    total = {width: Fraction(19 * number, 10**6) for width, number in instructions.items()}
    for width in WIDTHS:
        assert found["sum", width].measured == pytest.approx(float(total[width]), rel=6e-4)
        assert found["sum, A53 cycles", width].measured == pytest.approx(
            19e-6 * (cycles + instructions[width]), rel=6e-4
        )
        assert found["weights in memory", width].measured == pytest.approx(19e-3, rel=6e-4)
        bits = int(width[0])
        assert found["weights stored", width].measured == pytest.approx(19 * 800 * bits / 8e6, rel=6e-4)
    best = min(("4/4", "3/3", "2/2"), key=lambda width: total[width])
    verdicts = {}
    for engine, theirs in {**ENGINES, "the suite's 8/8": total["8/8"]}.items():
        for width in WIDTHS:
            if engine in ENGINES or width != "8/8":
                cell = found[f"over {engine}", width]
                assert cell.measured == pytest.approx(float(theirs / total[width]), rel=6e-4)
                assert cell.value_verdict == "modelled"
                assert (cell.reported, bool(cell.claim_verdict)) == (("1.7", True) if width == best else (None, False))
        ratio, against_own = theirs / total[best], theirs / total["8/8"]
        reached = ratio >= Fraction(165, 100)
        straw = engine in ENGINES and against_own > Fraction(125, 100)
        if abs(ratio - Fraction(165, 100)) > 1e-9 and abs(against_own - Fraction(125, 100)) > 1e-9:
            want = "fails" if not reached else "vacuous" if straw else "holds"
            assert found[f"over {engine}", best].claim_verdict == want
            assert ("straw man" in found[f"over {engine}", best].reason) == (want == "vacuous")
        verdicts[engine] = found[f"over {engine}", best].claim_verdict
    assert ("over the suite's 8/8", "8/8") not in found
    assert f"{found['sum', '2/2'].measured:.0f} M at 2/2" in table.findings[0]
    assert all(f"({verdict})" in table.findings[0] for verdict in verdicts.values())
    # The claim of DSQ's abstract, which is on NCNN
    evidence = Evidence({}, {}, {(cell.row, cell.column): cell for cell in table.cells})
    verdict, reason = claims.judgements()["dsq-1-7-times-ncnn"](evidence)
    against_ncnn = {verdicts[engine] for engine in ENGINES}
    if len(against_ncnn - {"vacuous"}) == 2:
        assert verdict == "undecided"
    else:
        assert verdict in against_ncnn
        assert verdict != "vacuous" or against_ncnn == {"vacuous"}
    for engine in ENGINES:
        assert f"over {engine} {found[f'over {engine}', best].measured:.2f} at {best}" in reason


def test_the_reasons_of_layers_say_what_was_counted():
    numbers = {"instructions": 2_500_000, "cycles": 1_250_000, "neon": 1_000_000, "requantization": 40_000}
    table = table_of({width: {**numbers, "weight bytes": 36_912, "weights": 1} for width in WIDTHS})
    cell = by_place(table)["layer2.0.conv2 x3", "3/3"]
    assert (cell.measured, cell.value_verdict, cell.recorded) == (2.5, "modelled", True)
    assert cell.reason == (
        "1.00 M of them NEON operations on data, 0.04 M for requantization; at least 1.25 M A53 cycles; "
        "36,912 bytes of weights"
    )


@pytest.mark.parametrize(
    ("own", "lower", "verdict"),
    [(100, 50, "holds"), (100, 100, "fails"), (100, 101, "fails")],
)
def test_fewer_bits_take_less_if_every_width_does(own, lower, verdict):
    counts = {width: {"instructions": own * 10**6, "weights": 8, "weight bytes": 8} for width in WIDTHS}
    for width in WIDTHS[1:]:
        counts[width]["instructions"] = 50 * 10**6
    counts["4/4"]["instructions"] = lower * 10**6
    table = table_of(counts)
    evidence = Evidence({}, {}, {(cell.row, cell.column): cell for cell in table.cells})
    for claim in ("dsq-accelerates-inference", "intro-less-memory-and-computation"):
        found, reason = claims.judgements()[claim](evidence)
        assert found == verdict
        assert f"{own / lower:.2f} at 4/4, 2.00 at 3/3, 2.00 at 2/2, 2.00 at 1/1 times" in reason


def test_without_the_packages_nothing_is_run_and_nothing_judged(tmp_path, results, monkeypatch):
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "on_arm", lambda: False)
    (table,), _ = jobs.regenerate([arm_speed], Options(out=tmp_path / "out", quiet=True))
    assert {cell.value_verdict for cell in table.cells} == {"not run"}
    assert all("pip install quantgap[arm]" in cell.reason and cell.command == arm_speed.COMMAND for cell in table.cells)
    assert table.findings == (arm_speed.ON_OTHER_CORES,)
    evidence = Evidence({}, {}, {(cell.row, cell.column): cell for cell in table.cells})
    for claim in ("dsq-1-7-times-ncnn", "dsq-accelerates-inference", "intro-less-memory-and-computation"):
        assert claims.judgements()[claim](evidence)[0] == "not testable"
        assert claims.judgements()[claim](Evidence({}, {}))[0] == "not testable"


def test_one_layer_missing_is_no_sum():
    found = list(table_of({width: {"instructions": 10**6} for width in WIDTHS}).cells)
    counted = [cell for cell in found if cell.key]
    assert arm_speed.compared(counted)
    assert arm_speed.compared(counted[:17] + counted[18:]) == []
    stale = dataclasses.replace(counted[17], value_verdict="stale")
    assert arm_speed.compared([*counted[:17], stale, *counted[18:]]) == []


def test_fixed_point_inference_is_judged_by_codes(monkeypatch):
    verdict, reason = claims.judgements()["intro-fixed-point-inference"](Evidence({}, {}))
    assert verdict == "holds"
    assert f"0 of {8 * 16 * 16 * 16:,} codes differ" in reason
    monkeypatch.setattr(deployment, "differing_codes", lambda: (1, 32768))
    assert claims.judgements()["intro-fixed-point-inference"](Evidence({}, {}))[0] == "fails"


# Times, on ARM hosts


def test_times_are_taken_on_arm_only_and_are_this_machines(monkeypatch):
    monkeypatch.setattr(build, "on_arm", lambda: False)
    assert not [job for job in arm_speed.jobs(Options()) if job.place.row == arm_speed.WALL]
    monkeypatch.setattr(build, "on_arm", lambda: True)
    monkeypatch.setattr(arm_time, "has_peer", lambda: True)
    timed = [job for job in arm_speed.jobs(Options()) if job.place.row == arm_speed.WALL]
    assert [job.place.column for job in timed] == [*WIDTHS, "NCNN 8/8"]
    assert {job.needs for job in timed} == {()}
    monkeypatch.setattr(arm_time, "has_peer", lambda: False)
    assert len([job for job in arm_speed.jobs(Options()) if job.place.row == arm_speed.WALL]) == len(WIDTHS)
    monkeypatch.setattr(cells, "hardware", lambda: {"processor": "another"})
    assert {job.key for job in timed}.isdisjoint(job.key for job in arm_speed.jobs(Options()))


def test_the_peer_is_there_where_its_package_is(monkeypatch):
    module = types.ModuleType("ncnn")
    module.__spec__ = importlib.machinery.ModuleSpec("ncnn", None)
    monkeypatch.setitem(sys.modules, "ncnn", module)
    assert arm_time.has_peer()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "ncnn")
    assert not arm_time.has_peer()


def test_times_are_medians_of_layers_added_up(monkeypatch):
    clock = iter(itertools.accumulate([0, 50, 0, 60, *itertools.chain(*([0, s] for s in (9, 1, 3, 2, 4, 8, 7)))] * 2))
    monkeypatch.setattr(arm_time.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(arm_time, "_own", lambda layer, bits: lambda: None)
    assert arm_time.kernels_seconds(["one", "another"], (2, 2)) == 4 + 4
    found = arm_speed._time(lambda: 0.0123456, lambda part: None)
    assert found == {"measured": 12.35, "protocol": arm_time.PROTOCOL}


def test_what_is_timed_is_the_layer(monkeypatch):
    """The kernels, with codes of the width, are called as they are counted."""
    pytest.importorskip("ziglang", reason="ziglang is not installed: pip install quantgap[arm]")
    pytest.importorskip("unicorn", reason="unicorn is not installed: pip install quantgap[arm]")
    layer = count.Layer(3, 5, 4, 3, 2, "tiny")
    for bits in ((8, 8), (2, 2), (1, 1)):
        codes = arm_time._own(layer, bits)()
        assert (codes.shape, codes.dtype) == ((1, 2, 2, 5), np.uint8)
        assert codes.max() < 2 ** bits[1]


@pytest.mark.parametrize("shape", [(8, 12, 10, 3, 1), (16, 16, 9, 3, 2), (5, 4, 8, 1, 2), (3, 1, 7, 1, 1)])
def test_the_peer_computes_the_same_integers(shape):
    pytest.importorskip("ncnn", reason="ncnn is not installed: pip install ncnn, to be timed beside it")
    layer, random = count.Layer(*shape), np.random.default_rng(0)
    w = random.integers(-127, 128, (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
    x = random.integers(-127, 128, (layer.inputs, layer.size, layer.size))
    want = integer.convolve(x[None], w, stride=layer.stride, padding=layer.kernel // 2)[0]
    check_same(f"{layer}", arm_time.Peer(layer, w, x).run().astype(np.int64), want)
