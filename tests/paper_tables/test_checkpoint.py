"""The subcommand checkpoint, on a test set of few images whose labels a network gives under one normalisation."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paper_tables import cells, checkpoint, cli
from paper_tables.cells import Cell, Measurement
from torchimpl import files
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.data import cifar10
from torchimpl.evaluation import normalize
from torchimpl.models import ARCHITECTURES, resnet20, resnet20_released
from torchimpl.training import store
from torchimpl.training.recipe import recipe

COUNT = 100


def split(labels):
    rng = np.random.default_rng(0)
    images = (rng.random((COUNT, 3, 1, 1)) * rng.integers(0, 256, (COUNT, 3, 32, 32))).astype(
        np.uint8
    )  # of all colours
    return cifar10.Split(images, labels, "0" * 64)


def trained(make, how):
    """A network, and the test set of which it is right for each image if that is normalised in this way."""
    torch.manual_seed(2)
    model, x = make(), normalize(split(None).images, *NORMALIZATIONS[how])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch that follows
    with torch.no_grad():
        model.train()(x)
        model.eval().linear.bias -= model(x).mean(0)
        labels = model(x).argmax(1).numpy()
    assert len(set(labels)) > 2, "a network that tells images apart"
    return model, split(labels)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on a network that is right under one normalisation: status, output, the cell."""

    def command(how, *arguments, make=resnet20, content=lambda state: state, arch="resnet20"):
        model, test = trained(make, how)
        torch.save(content(model.state_dict()), tmp_path / "file.pth")
        monkeypatch.setattr(checkpoint.cifar10, "load", lambda root, name: test)
        out = tmp_path / "out"
        given = ["--arch", arch, "--weights", str(tmp_path / "file.pth"), "--data", str(tmp_path), "--out", str(out)]
        status = cli.main(["checkpoint", *given, "--quiet", "--strict", *arguments])
        said = capsys.readouterr()
        written = [cells.read(path, Cell) for path in out.rglob("*.json")]
        return status, said.err if status == 2 else said.out, written[0] if written else None

    return command


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_an_honest_claim_is_not_contradicted_however_the_images_were_normalised(how, run):
    status, out, cell = run(how, "--claim", "100.0")
    assert status == 0
    assert "reproduced" in out
    assert f"normalization {how}" in cell.protocol
    assert cell.measured == 100
    assert 0 <= cell.seconds < 600
    before = list(NORMALIZATIONS)[: list(NORMALIZATIONS).index(how) + 1]
    for name in NORMALIZATIONS:
        assert (f"{name} " in cell.reason.split("tried:")[1].split("(not")[0]) == (name in before)


def test_what_none_reaches_is_contradicted_and_the_best_is_shown(run):
    status, _, cell = run("half", "--claim", "99.0")
    assert status == 1
    assert cell.value_verdict == "contradicted"
    assert "normalization half" in cell.protocol
    assert cell.measured == 100
    assert all(f"{name} " in cell.reason for name in NORMALIZATIONS)
    assert "(not" not in cell.reason


def test_without_a_claim_all_are_shown(run):
    status, out, cell = run("cifar10")
    assert status == 0
    assert cell.value_verdict is None
    assert all(f"{name} " in out for name in NORMALIZATIONS)


def test_with_an_option_only_that_one(run):
    status, out, cell = run("none", "--claim", "100.0", "--normalize", "imagenet")
    assert status == 1
    assert "normalization imagenet" in cell.protocol
    assert "tried" not in out


def test_the_released_network_brings_its_own(run):
    _, out, cell = run("imagenet", "--claim", "100", make=resnet20_released, arch="resnet20_released")
    assert cell.value_verdict == "reproduced"
    assert "tried" not in out


@pytest.mark.parametrize(
    ("arch", "make", "how"),
    [
        ("resnet20", resnet20, "cifar10"),
        ("resnet32", ARCHITECTURES["resnet32"], "cifar10"),
        ("resnet20_released", resnet20_released, "imagenet"),
    ],
)
def test_no_file_tells_hardtanh_from_relu(arch, make, how, run):
    hardtanh = functools.partial(make, activation=F.hardtanh)
    _, _, cell = run(how, "--normalize", how, "--activation", "hardtanh", make=hardtanh, arch=arch)
    assert cell.measured == 100
    assert cell.protocol.startswith(f"{arch} with hardtanh, ")
    _, _, cell = run(how, "--normalize", how, make=hardtanh, arch=arch)
    assert cell.measured < 100


def test_what_training_keeps_is_evaluated_again_and_named_if_it_is_recorded(tmp_path, monkeypatch, capsys):
    """With the accuracy that the run's last epoch had."""
    images = split(np.arange(COUNT) % 10)
    made = recipe("cifar10-short", epochs=1, batch=20, precision="float32", crop=0, rate=0.01)
    state, path = store.run(made, tmp_path / "runs", images, images)
    monkeypatch.setattr(checkpoint.cifar10, "load", lambda root, name: images)
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    place = {"paper": "DAQ", "table": "training", "row": "full precision, FP"}

    def record(seed, weights):
        detail = {"column": f"a profile, seed {seed}", "detail": {"weights": weights}}
        cells.write(
            tmp_path / "results",
            [Measurement(**place, **detail, unit="percent", measured=10.0, protocol="resnet20 (hardtanh)")],
        )

    record(0, "0" * 64)
    given = ["checkpoint", "--arch", "resnet20", "--normalize", "cifar10", "--quiet", "--weights", str(path)]
    given += ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(given) == 0
    assert "recorded run" not in capsys.readouterr().out
    (cell,) = [cells.read(path, Cell) for path in (tmp_path / "out").rglob("*.json")]
    assert cell.measured == 100 * state.correct[-1] / COUNT
    record(1, cell.detail["weights"])
    assert cli.main(given) == 0
    out = " ".join(capsys.readouterr().out.split())
    run = "full precision, FP, a profile, seed 1: 10 %, resnet20 (hardtanh)"
    assert f"its weights are those of the recorded run {run}" in out
    (tmp_path / "results" / "training" / "damaged.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(checkpoint.evaluation, "count_correct", lambda *_, **__: pytest.fail("before it is known"))
    assert cli.main(given) == 2
    assert "restore it from the repository" in capsys.readouterr().err


def test_a_network_that_answers_nan_is_bad_input(run):
    def large(state):
        return {name: value * 1e38 if name == "layer1.0.conv1.weight" else value for name, value in state.items()}

    status, err, cell = run("cifar10", content=large)
    assert (status, cell) == (2, None)
    assert "file.pth: the network answers NaN for every image" in err
    assert err.count("\n") == 1


def test_images_without_an_answer_are_told(run, monkeypatch):
    from torchimpl import evaluation

    right = evaluation.count_correct

    def some(*arguments, **options):
        return right(*arguments, **options)._replace(undefined=3)

    monkeypatch.setattr(checkpoint.evaluation, "count_correct", some)
    _, out, cell = run("cifar10", "--normalize", "cifar10")
    assert "3 images have no answer (NaN or infinity) and count as wrong" in cell.reason
    assert cell.reason in out


def test_of_two_state_dicts_it_says_which(run):
    _, _, cell = run("cifar10", "--normalize", "cifar10", content=lambda state: {"ema": state, "model": state})
    assert cell.protocol.endswith("entry model (it also holds ema)")


def test_abandoned_files_are_swept(run, tmp_path, monkeypatch):
    old = tmp_path / "out" / "checkpoint" / ".file.json.abcdefgh.tmp"
    old.parent.mkdir(parents=True)
    old.write_text("")
    monkeypatch.setattr(files, "ABANDONED", -1.0)
    run("cifar10", "--normalize", "cifar10")
    assert not old.exists()
