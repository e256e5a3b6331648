"""The README is true: its commands are the ones that continuous integration runs, and its code runs."""

import builtins
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import quantgap_gate
from arm import __main__
from paper_tables import (
    cells,
    cli,
    constants,
    depth,
    disguise,
    evolution,
    jobs,
    protocol,
    runs,
    schedule,
    table5,
    table7,
    tables,
    trained,
)
from paper_tables.audit import arithmetic, claims, significance
from tests.meta.test_mutants import MUTANTS
from torchimpl.data import cifar10

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]


def test_the_levels_of_the_parametrized_layer_are_as_many_as_it_says():
    (block,) = (block for language, block in BLOCKS if "quantize_weight" in block)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "four levels" in block
    assert len(names["conv"].weight.unique()) == 4


def test_ci_runs_the_two_lines():
    lines = [line for line in COMMANDS if "tox" in line and line.startswith("python3 -m venv")]
    assert len(lines) == 2
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert all(line in ci for line in lines)


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(block):
    promised = re.search(r"# (\w+Error): (?:\.\.\. )?([^.\n]+)", block)
    if promised is None:
        exec(compile(block, "README.md", "exec"), {})
        return
    with pytest.raises(getattr(builtins, promised[1]), match=re.escape(promised[2])):
        exec(compile(block, "README.md", "exec"), {})


CALLS = [line for line in COMMANDS if re.search(r"bin/quantgap |-m paper_tables ", line)]


def test_the_installed_command_is_what_it_uses():
    assert len(CALLS) > 3
    assert not any("-m paper_tables" in line for line in CALLS)
    assert 'quantgap = "paper_tables.cli:main"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("line", CALLS)
def test_the_options_exist(line):
    arguments = re.split(r"bin/quantgap |-m paper_tables ", line, maxsplit=1)[1].split("  #")[0].split()
    subcommand = arguments[0] if arguments and not arguments[0].startswith("-") else None
    module = cli if subcommand is None else importlib.import_module(cli.SUBCOMMANDS[subcommand])
    known = module.parser().format_help()
    for option in (word for word in arguments if word.startswith("--")):
        assert option in known, f"{line}: {option} is no option"


# The gate, as a stranger uses it


def test_the_gate_finds_in_the_example_what_is_said(tmp_path, monkeypatch, capsys):
    (block,) = (block for language, block in BLOCKS if "def quantizer():" in block)
    (line,) = (line for line in CALLS if "quantgap gate" in line)
    (tmp_path / "mine.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert cli.main(line.split("quantgap ")[1].split()) == 1
    out = capsys.readouterr().out
    assert "held to lsq, weight, mqbench" in out
    assert "mine:quantizer: 2 fails, " in out
    assert "again: conformance.again('mine:quantizer', 'nan', " in out
    assert "again: conformance.again('mine:quantizer', 'lsq: gradient for step', " in out
    sys.modules.pop("mine", None)


def test_the_workflow_runs_the_command_that_is_explained():
    (workflow,) = (block for language, block in BLOCKS if language == "yaml")
    (line,) = (line for line in COMMANDS if "--pyargs" in line)
    assert f"- run: {line.removeprefix('.venv/bin/')}\n" in workflow
    (extra,) = set(re.findall(r"quantgap\[(\w+)\]", workflow))
    assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for option in re.findall(r" (--[a-z]+)", line.partition("--pyargs")[2]):
        assert option in quantgap_gate.OPTIONS | quantgap_gate.OF_PYTEST
    assert line.split("--pyargs ")[1].split()[0] == quantgap_gate.TESTS


@pytest.mark.parametrize("line", [line for line in COMMANDS if re.search(r"-m (arm|torchimpl\.deployment) ", line)])
def test_the_options_of_deployment_exist(line):
    _, _, words = line.partition(" -m ")
    module, *arguments = words.split()
    if module == "arm":
        module = __main__.SUBCOMMANDS[arguments.pop(0)]
    importlib.import_module(module).parser().parse_args(arguments)  # exits where an option is wrong


def test_a_raspberry_pi_takes_five_lines():
    (block,) = (block for language, block in BLOCKS if language == "sh" and "ncnn" in block)
    assert len(block.splitlines()) == 5
    assert "arm = " in (ROOT / "pyproject.toml").read_text()
    assert (ROOT / "tests" / "arm").is_dir()


def test_files_that_it_names_exist():
    for name in re.findall(r"`((?:reference|torchimpl|paper_tables|tests|results|arm)/[\w/.]+)`", README):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name


def test_the_download_command_exists(capsys):
    with pytest.raises(SystemExit) as stop:
        cifar10.main(["--help"])
    assert stop.value.code == 0
    assert "DIR" in capsys.readouterr().out


def as_recorded(table):
    """The cells of what is recorded, as a table shows them."""
    options = tables.Options(quiet=True)
    return {job.place: jobs.shown(job, jobs.recorded(job, options), recorded=True) for job in table.jobs(options)}


def test_its_table_of_trained_orderings_has_what_the_recorded_runs_decide():
    decided = [
        f"| {one.ordering.row}, {one.ordering.more.width} | {one.difference:+.1f} | {len(one.seeds)} | {one.verdict} |"
        for table in (table5, table7)
        for one in trained.compare(table.ORDERINGS, as_recorded(table), "cifar10-short", trained.SEEDS)
        if one.verdict != "undecided"
    ]
    assert len(decided) > 1
    assert re.findall(r"^\|.* (?:holds|fails) \|$", README, re.MULTILINE) == decided


def test_how_far_below_ir_net_begins_is_what_the_recorded_runs_say():
    relu, hardtanh = (
        np.mean([cell.measured for cell in runs.found(as_recorded(table5), one, "FP", "cifar10-short", range(3))])
        for one in (runs.FULL_PRECISION, runs.FULL_PRECISION_HARDTANH)
    )
    assert f"start of its own, which on CIFAR-10 is {relu - hardtanh:.0f} points lower" in " ".join(README.split())


def test_how_far_rounding_errors_part_the_same_training_is_what_the_recorded_runs_say():
    daq, same = (
        table7.ENTRIES[one].runs(as_recorded(table7), "cifar10-short", trained.SEEDS).values
        for one in (runs.DAQ, runs.COMBINED_WITH_GAIN)
    )
    apart = [f"{same[seed] - daq[seed]:+.1f}" for seed in sorted(daq.keys() & same.keys())]
    listed = " and ".join(filter(None, [", ".join(apart[:-1]), apart[-1]]))
    assert f"ends {listed} points from it (seed by seed)" in " ".join(README.split())


def test_what_it_counts_is_what_the_audits_count():
    text = " ".join(README.split())
    verdicts = [cell.value_verdict for cell in arithmetic.run(tables.Options(quiet=True)).cells]
    assert verdicts.count("contradicted") == 1
    assert f"Of the {len(verdicts)} differences that DAQ's tables print, one is wrong" in text
    best, every, _ = findings_of(significance)
    comparisons, wins, clear, corrected, ties, losses, beyond = map(int, re.findall(r" (?<!for )\(?(\d+) [a-z]", best))
    assert (losses, beyond) == (2, 1)
    assert every.startswith("Of 52 comparisons in all")
    said = (
        f"Of its {comparisons} comparisons with the best rival, {clear} are wins by more than the choice of test "
        f"images and the rounding of printed numbers explain ({corrected} after Holm's correction for all 52 "
        f"comparisons), {wins - clear} are smaller wins, {ties} are ties and {losses} losses, one of them by more than "
        "chance: to PROFIT"
    )
    assert said in text
    assert f"The report has the verdicts on all {len(claims.judgements())} claims." in text


def test_mistakes_are_as_many_as_it_says():
    assert "More than five hundred mistakes" in README
    assert 500 < len(MUTANTS) < 600


def test_its_first_table_has_what_the_released_networks_reach():
    options = tables.Options(quiet=True)
    wanted = table5.released_jobs(options)
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) to ([\d.]+) \| (.+) \|$", README, re.MULTILINE
    )
    assert len(rows) == len(wanted) == 3
    for job, (bits, printed, measured, low, high, words) in zip(wanted, rows, strict=True):
        found = jobs.recorded(job, options)
        assert found.column == {"32 / 32": "FP"}.get(bits, bits.replace(" ", ""))
        assert (measured, low, high) == tuple(f"{value:.2f}" for value in (found.measured, *found.ci95))
        images = round(100 * (found.measured - float(printed)))  # of 10,000
        off = f"{abs(images)} images {'more' if images > 0 else 'fewer'}"
        assert words.endswith("half a unit of the last digit off" if images == 5 else off)


def findings_of(table):
    """What a table says of the recorded runs."""
    return table.run(tables.Options(quiet=True), as_recorded(table)).findings


def findings(table):
    """The same as one text."""
    return " ".join(findings_of(table))


def test_what_it_says_of_digits_and_of_slopes_is_what_the_tables_find():
    said, text = findings(protocol), " ".join(README.split())
    (rate, rate_p), (kernel, kernel_p), (every, every_p) = (
        re.search(rf"{arm} ([+-][\d.]+) \(p = ([\d.]+)\)", said).groups()
        for arm in ("rate 0.1", "the released kernel", "all four, as the released code")
    )
    assert f"0.1 is {float(rate)} points better than the printed 0.01 (p = {float(rate_p):.2f})" in text
    assert float(every) > 0
    assert float(every_p) < 0.05
    assert f"alone, at 0.01, is {-float(kernel)} points below, which chance explains (p = {kernel_p})" in text
    assert "digits: of these differences none is beyond chance" in findings(schedule)
    assert "No difference stands out after 3, 10 or 30 epochs" in text
    (of_one, *_) = (one for one in findings_of(schedule) if one.startswith("digits: DAQ less"))
    short, middle, long = re.findall(r"\+/-([\d.]+)", of_one)
    assert f"interval of one is +/-{short}, {middle} and {long} points" in text
    *lines, beyond = (one for one in findings_of(schedule) if one.startswith("CIFAR-10"))
    kernel, ste, irnet = (re.search(r"after 3, 6 epochs: (\S+), (\S+) points", line).groups() for line in lines)
    assert (
        f"after 3 and 6 epochs of CIFAR-10 DAQ at 1/1 is {' and '.join(kernel)} points from its released kernel, "
        f"{' and '.join(ste)} from STE, {' and '.join(irnet)} from IR-Net, all beyond chance"
    ) in text
    assert beyond.count(" after 3 and 6 epochs") == 3
    said = findings(depth)
    assert said.count("none of it beyond chance") == 2
    assert "neither makes a difference beyond chance" in text
    found = {place.row: cell.measured for place, cell in as_recorded(depth).items() if "CIFAR-10" in place.column}
    others = ("coth, paper, as it is", "coth, paper, mean 1", "flat, mean of paper (1.240)")
    kernel, scaled, level = (found["flat, level 1"] - found[row] for row in others)
    assert f"is {kernel:.1f} points below flat slopes, and {scaled:.1f} once it is scaled to their mean" in text
    assert f"flat slopes scaled to the kernel's are {level:.1f} below" in text
    times = [float(number) for number in re.findall(r"([\d.]+) times (?:that of flat slopes|in the released)", said)]
    paper, trained_paper, released, trained_released = times
    assert (
        f"makes gradients {paper:.0f} times as large as flat slopes do before fine-tuning, {trained_paper:.1f}" in text
    )
    assert f"the released kernel {released:.1f} and {trained_released} times" in text
    assert (
        f"below {int(max(runs.tuned('DSQ', 'cifar10-short').detail['accuracies'])) + 1} % at each of the rates" in text
    )
    place = runs.place(runs.DSQ, "1/1", "cifar10-short", 0)
    run = cells.read(cells.RESULTS / place.table / place.filename, cells.Measurement)
    assert run.detail["diverged"].startswith("the loss is inf")
    assert run.detail["diverged"].endswith("of epoch 1")
    listed = re.findall(r"recipe, one seed.*disguise is ([\d. →]+) times as far", "\n".join(findings_of(disguise)))
    times = [float(number) for numbers in listed for number in numbers.split(" → ")]
    assert f"{min(times)} to {max(times)} times as far as two runs of DAQ begun 1e-6 apart" in text
    gains = [float(gain) for gain in re.findall(r"sigma = [\d., ]+ ([+-][\d.]+) \(", findings(constants))]
    assert len(gains) == 7
    assert max(gains) == 0
    assert "Nor is any of seven other choices of gamma and sigma better than the paper's" in text
    said = findings(evolution)
    learned, fixed = re.findall(r"after the first epoch, ([\d.]+) after the last", said)[2:]
    assert float(learned) < float(fixed)
    assert "Its learned range lowers the weights' error" in text
    first, last = re.search(r"alpha of weights: ([\d.]+) after the first epoch, ([\d.]+) after the last", said).groups()
    assert float(first) < float(last)
    assert "Its alpha rises" in text
