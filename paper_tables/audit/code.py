"""Where the paper and the code released with it disagree, each shown by a computation.

What the released code does was read in the repository of DAQ's authors (cvlab-yonsei/DAQ on GitHub). Its checkpoints
tell more: the optimizers' state and BatchNorm's counters are the record of how the networks were trained.

Code is the *same* as the paper or *differs*; a checkpoint *matches* what is printed, or the *released file differs*.
Neither contradicts the paper, whose numbers may be of other runs, with other code. Of what the paper does not say there
is a measurement without a verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import norm

from paper_tables import keys, table5
from paper_tables.cells import Cell, Place
from paper_tables.definitions import COMMIT, LAYER, REPOSITORY
from paper_tables.jobs import Job
from paper_tables.tables import InputError, Measured, Options, Table
from reference import daq, daq_theory, grid
from reference.grid import Array
from torchimpl import checkpoints, first_batch, history, released_state, sources
from torchimpl.data import cifar10

TITLE = "Paper against released code"
NEEDS = "nothing; in full, --checkpoints and --data as for Table 5"
COMMAND = "python -m paper_tables --table code --data DIR --checkpoints DIR"
TRAINER, CONFIG = "cifar10_train.py", "configs/DAQ/resnet20_DAQ_W1A1.yml"
INTRO = (
    "What the paper says or leaves open, beside what its released code and checkpoints do "
    f"({REPOSITORY} on GitHub, as of commit {COMMIT}). *Same* and *differs* are of the code; *matches* and *released "
    "file differs* of a checkpoint, which may be of another run than the printed numbers. Where the paper says nothing "
    "there is no verdict."
)
RECOMPUTED, READ = "code", "checkpoints"  # what a line is about


def _cell(
    row: str,
    says: str | None,
    measured: float | None,
    reason: str,
    *,
    agrees: bool | None,
    unit: str = "",
    protocol: str = "computed from the reference",
) -> Cell:
    return Cell(
        paper="DAQ",
        table="code",
        row=row,
        column=RECOMPUTED,
        unit=unit,
        reported=says,
        measured=measured,
        protocol=protocol,
        value_verdict=None if agrees is None else ("same" if agrees else "differs"),
        reason=reason,
    )


# ---------------------------------------------------------------------------------------------------------------------
# What the code computes
# ---------------------------------------------------------------------------------------------------------------------


def literal_kernel(q: Array, centre: float, sigma: float) -> Array:
    """The kernel as the released code writes it (models/resnet20_DAQ.py, lines 114 and 168)."""
    return np.exp(-((q - centre) ** 2) / sigma**2)


def kernel_cells() -> Iterator[Cell]:
    """The kernel at the farther level: of a Gaussian with the printed deviation, and as the code computes it."""
    for role, sigma in (("weights", daq.SIGMA["weight"]), ("activations", daq.SIGMA["activation"])):
        paper = float(norm.pdf(1, scale=sigma) / norm.pdf(0, scale=sigma))
        released = float(literal_kernel(np.asarray(1.0), 0.0, sigma))
        slopes = [daq_theory.mean_slope(sigma=sigma, variant=variant) for variant in daq.VARIANTS]
        yield _cell(
            f"kernel at the farther level, {role}",
            f"{paper:.4f} (standard deviation {sigma:g})",
            released,
            f"{LAYER}:{'114' if role == 'weights' else '168'} computes exp(-1/sigma^2), a Gaussian of deviation "
            f"sigma/sqrt(2); the mean slope of the gradient becomes {slopes[1]:.3f} instead of {slopes[0]:.3f}",
            agrees=math.isclose(released, paper),
        )


@dataclass(frozen=True)
class ReadInCode:
    """What was read in the released code, without being computed.

    Attributes
    ----------
    row : str
    says : str or None
        The paper; None where it says nothing.
    does : str
        The code.
    where : str
        File and line.
    agrees : bool or None
        None where the paper says nothing that it could differ from.
    """

    row: str
    says: str | None
    does: str
    where: str
    agrees: bool | None


FACTS = (
    ReadInCode(
        "gamma", "2, for weights and activations (Section 4.1)", "2 for both", f"{LAYER}:26 and {CONFIG}:12", True
    ),
    ReadInCode(
        "standardised weights",
        "standardised before they are quantized (Section 4.1)",
        "less their mean, over their deviation, both over the whole layer and both without gradient",
        f"{LAYER}:216-218",
        True,
    ),
    ReadInCode("first bounds of the weights", "-3 and 3 (Section 4.1)", "-3 and 3", f"{LAYER}:205-206", True),
    ReadInCode(
        "first upper bound of the inputs",
        "3 deviations of the layer's inputs (Section 4.1)",
        "3 deviations of the first batch's inputs, which all come from a ReLU: for others the code has nothing",
        f"{LAYER}:207",
        True,
    ),
    ReadInCode(
        "lower bound of the inputs", "fixed to 0 after a ReLU (Section 4.1)", "the constant 0", f"{LAYER}:212", True
    ),
    ReadInCode("output scale", "s, learned (Eq. 3)", "|s|, learned", f"{LAYER}:245", False),
    ReadInCode(
        "upper of the two levels",
        "by ceil (Section 3.2)",
        "one above floor, also at a level, where ceil is floor",
        f"{LAYER}:55, 105-106 and 138",
        False,
    ),
    ReadInCode(
        "start of training",
        "full-precision models (Section 4.1)",
        "the full-precision checkpoint, whatever the bit-widths",
        f"{TRAINER}:211-218 and {CONFIG}:15",
        True,
    ),
    ReadInCode(
        "splits of CIFAR-10",
        "training set, and accuracy on the test split (Section 4.2)",
        "the official training split, all of it, and the official test split",
        f"{TRAINER}:246-252",
        True,
    ),
    ReadInCode(
        "best epoch on test images",
        None,
        "the test accuracy of every epoch is printed, and the best of all returned; the file that is saved is the "
        "last epoch's",
        f"{TRAINER}:152-166",
        None,
    ),
)


def read_cells() -> Iterator[Cell]:
    """What was read in the released code."""
    for fact in FACTS:
        yield _cell(
            fact.row,
            fact.says,
            None,
            f"{fact.where}: {fact.does}",
            agrees=fact.agrees,
            protocol=f"read in {REPOSITORY} at {COMMIT}",
        )


def tie_cells() -> Iterator[Cell]:
    """Rounding of ties: DAQ down, torch to even, C and NEON away from zero."""
    ties = np.arange(2**grid.MAX_BITS - 1) + 0.5
    down = grid.round_half_down(ties)
    for name, rule in (("torch.round", "half_even"), ("C's round and NEON's FCVTA", "half_away")):
        differ = float(np.mean(grid.ROUNDINGS[rule](ties) != down))
        yield _cell(
            f"ties under {name}",
            "Eq. 11: down",
            100 * differ,
            f"under {name}, {100 * differ:.0f} % of the ties from 0.5 to {ties[-1]} go up; the released code rounds "
            "the fractional part, so that its ties go down, as Eq. 11 says",
            agrees=None,
            unit="% of ties that differ",
        )


def released_phi(x: Array, *, gamma: float, sigma: float) -> Array:
    """phi(x; beta*) as the released code computes it: in float32, less the largest score of the whole *tensor*.

    Subtracting one number from every exponent changes nothing in exact arithmetic. In floating point, one input near a
    transition point has a huge beta* and with it the largest beta* s; the others' exponentials vanish.
    """
    s_f, s_c = daq.weighted_scores(x.astype(np.float32), sigma=sigma, variant="released")
    with np.errstate(all="ignore"):
        beta = np.float32(gamma) / np.abs(s_f - s_c)
        top = np.maximum(beta * s_f, beta * s_c).max()
        m_f, m_c = np.exp(beta * s_f - top), np.exp(beta * s_c - top)
        return np.asarray(np.floor(x) + m_c / (m_f + m_c))


def maximum_cells() -> Iterator[Cell]:
    """What subtracting the tensor's largest score does."""
    x = np.append(np.linspace(0.05, 0.45, 9), 0.5)
    for sigma in (daq.SIGMA["weight"], daq.SIGMA["activation"]):
        exact = daq.adaptive_assignment(x)
        error = np.abs(released_phi(x, gamma=daq.GAMMA, sigma=sigma) - exact)[:-1].max()
        yield _cell(
            f"softmax of a tensor with one tie, sigma = {sigma:g}",
            "Eq. 9",
            float(error),
            "largest error of phi among nine harmless inputs beside one at the transition point, in float32, when the "
            "tensor's largest score is subtracted",
            agrees=bool(error < 1e-6),
            unit="levels",
        )
    for gamma in (daq.GAMMA, 4.0, 8.0):
        sigma = first_nan(gamma)
        yield _cell(
            f"NaN beside a tie, gamma = {gamma:g}",
            None,
            sigma if math.isfinite(sigma) else None,
            f"from sigma = {sigma:.2f} on, one input at a transition point turns one at a level into NaN (0/0): every "
            "exponential of that input underflows in float32 (the paper prints sigma = 1 and 2 only)"
            if math.isfinite(sigma)
            else f"up to sigma = {SIGMAS_TRIED[1] / 100:g} there is none",
            agrees=None,
            unit="smallest sigma with NaN",
        )


SIGMAS_TRIED = (50, 10_000)  # in hundredths


def first_nan(gamma: float) -> float:
    """Smallest sigma, to 0.01, at which `released_phi` of an input at a level and one at a transition point is NaN."""
    for hundredths in range(*SIGMAS_TRIED):
        if np.isnan(released_phi(np.array([0.0, 0.5]), gamma=gamma, sigma=hundredths / 100)).any():
            return hundredths / 100
    return math.inf


def literal_cells() -> Iterator[Cell]:
    """How far the literal computation is from integers in float32."""
    x = np.linspace(0, 3, 100_001, dtype=np.float32)
    error = float(np.abs(daq.discretize(x, sigma=1.0) - grid.round_half_down(x)).max())
    yield _cell(
        "f(phi(x; beta*)) in float32",
        "Eq. 11: exactly the rounding",
        error,
        f"with one maximum an input, training outputs are within {error:.1e} of the integers that test outputs are",
        agrees=error < 1e-5,
        unit="levels",
    )


# ---------------------------------------------------------------------------------------------------------------------
# What the checkpoints tell
# ---------------------------------------------------------------------------------------------------------------------

Contents: TypeAlias = Mapping[str, Mapping[str, Any]]  # of the checkpoints, by their column in Table 5


@dataclass(frozen=True)
class Line:
    """A line that is measured.

    Attributes
    ----------
    job : Job
    says : str or None
        What the paper says; None where it says nothing.
    explains : callable
        What the measured cell rests on, in a sentence.
    agrees : callable, optional
        Whether a measured cell is as the paper says.
    """

    job: Job
    says: str | None
    explains: Callable[[Cell], str]
    agrees: Callable[[Cell], bool] | None = None


# For each line of the recipe: what Section 4.1 says, and what the number rests on.
RECIPE = {
    "learning rate of the weights": ("0.01", "SGD's initial_lr is {value:g}, its momentum {momentum:g}"),
    "weight decay of the weights": ("0.0001", "SGD's weight_decay is {value:g}"),
    "learning rate of the quantizers": ("0.0001", "Adam's initial_lr is {value:g}"),
    "weight decay of the quantizers": ("0", "Adam's weight_decay is {value:g}"),
    "epochs": ("400", "last_epoch of the cosine schedule, which is that of the file: no best epoch was chosen"),
    "batch size": (
        "256",
        "BatchNorm counted {batches:g} batches more than in the full-precision checkpoint, {batches an epoch:g} an "
        "epoch: that is {value:g} images a batch",
    ),
}
FIRST_IMAGES = 256
STATE = "torchimpl.released_state"


def lines(options: Options) -> Iterator[Line]:
    """Every line that takes the checkpoints."""

    def read(
        row: str, reads: Callable[[Contents], history.Fact], unit: str = "", module: str = "torchimpl.history"
    ) -> Job:
        key = keys.key([module], checkpoints=sorted(one.sha256 for one in table5.RELEASED.values()))
        measure = partial(_read, options.checkpoints, reads)
        return Job(Place("DAQ", "code", row, READ), unit, key, COMMAND, measure, ("checkpoints",))

    for column in ("1/1", "1/32"):
        for row, (says, words) in RECIPE.items():
            yield Line(
                read(f"{row}, {column}", partial(_recipe, row, column)),
                f"{says} (Section 4.1)",
                lambda cell, words=words: words.format(value=cell.measured, **cell.detail),  # type: ignore[misc]
                lambda cell, says=says: Decimal(repr(cell.measured)) == Decimal(says),  # type: ignore[misc]
            )
        yield Line(
            read(
                f"threshold between the two weight levels, {column}",
                partial(_threshold, column),
                "standard deviations of the weights",
            ),
            "l = -3, u = 3 at first, both learned",
            lambda cell: (
                f"(l + u)/2 of the layer where it is farthest from 0, {cell.detail['layer']}: training moves l and u "
                "apart, so that weights are not binarised by their sign"
            ),
        )
        yield Line(
            read(f"cosine schedule, {column}", partial(_cosine, column), "epochs", STATE),
            "cosine annealing (Section 4.1)",
            lambda cell: (
                f"both optimizers' schedules have T_max = {cell.measured:g}, and their last rate is "
                f"{cell.detail['last rate']:g}"
            ),
            lambda cell: cell.measured is not None and cell.detail["last rate"] == 0,
        )
        yield Line(
            read(f"layers without a quantizer, {column}", partial(_plain, column), "layers", STATE),
            "first and last (Section 4.1)",
            lambda cell: f"these have none: {cell.detail['layers']}; {cell.detail['quantized']:g} layers have one",
            lambda cell: cell.detail["layers"] == "conv1, linear",
        )
    yield Line(
        read("learned lower bounds of the inputs, 1/1", _lower_bounds, "layers", STATE),
        "0, as inputs come from a ReLU (Section 4.1)",
        lambda cell: f"layers with one: {cell.measured:g}; with a learned upper bound: {cell.detail['upper']:g}",
        lambda cell: cell.measured == 0 and cell.detail["upper"] != 0,
    )
    yield Line(
        read("batches seen by the BatchNorm after the first convolution", _first_norm, "batches"),
        "ResNet-20 [15]",
        lambda cell: (
            f"its parameters are in the file, and it saw {cell.measured:g} batches where the others saw "
            f"{cell.detail['others']}: the network does not use it. It has a BatchNorm over its "
            f"{cell.detail['features']} features before the classifier instead, which ResNet-20 has not"
        ),
        lambda cell: cell.measured == cell.detail["others"],
    )
    yield Line(
        Job(
            Place("DAQ", "code", "output scale in the very first batch, 1/32", RECOMPUTED),
            "times too large or too small",
            keys.key(
                ["torchimpl.first_batch", "torchimpl.data.cifar10", *sources.method_modules("daq")],
                checkpoint=table5.RELEASED["FP"].sha256,
                images=cifar10.SHA256["test"],
                first=FIRST_IMAGES,
            ),
            COMMAND,
            partial(_first_scale, options.data, options.checkpoints),
            ("data", "checkpoints"),
        ),
        None,
        lambda cell: (
            "the paper says nothing of the first scale; the code sets it after using it, so that this batch still "
            f"has the placeholder {first_batch.PLACEHOLDER_SCALE}, where {cell.detail['least']:.3f} to "
            f"{cell.detail['greatest']:.3f} would be right ({cell.detail['layers']} layers, first {cell.images} test "
            "images; resnet20_DAQ_w.py:176-186)"
        ),
    )


def _recipe(row: str, column: str, contents: Contents) -> history.Fact:
    before, counter = (history.batches(contents[name]) for name in ("FP", column))
    return history.recipe(contents[column], before, counter)[row]


def _threshold(column: str, contents: Contents) -> history.Fact:
    return history.weight_threshold(contents[column])


def _cosine(column: str, contents: Contents) -> history.Fact:
    return released_state.cosine_length(contents[column])


def _plain(column: str, contents: Contents) -> history.Fact:
    return released_state.without_quantizer(contents[column])


def _lower_bounds(contents: Contents) -> history.Fact:
    return released_state.input_lower_bounds(contents["1/1"])


def _first_norm(contents: Contents) -> history.Fact:
    return history.first_norm(contents["FP"])


def _read(folder: Path | None, reads: Callable[[Contents], history.Fact], progress: object) -> dict[str, Any]:
    """Measure a line that is read from the checkpoints."""
    assert folder is not None  # the job needs it
    try:
        contents = {
            column: checkpoints.read_content(folder / released.filename, sha256=released.sha256)[0]
            for column, released in table5.RELEASED.items()
        }
    except ValueError as error:
        raise InputError(str(error)) from None
    measured, detail = reads(contents)
    return {"measured": float(measured), "detail": detail, "runs": 1, "protocol": "read from the checkpoints"}


def _first_scale(data: Path | None, folder: Path | None, progress: object) -> dict[str, Any]:
    """Measure how far the first batch's output scales are from those of the others."""
    assert data is not None  # the job needs it
    assert folder is not None
    released = table5.RELEASED["FP"]
    try:
        images = cifar10.load(data, "test").images[:FIRST_IMAGES]
        checkpoint = checkpoints.read(folder / released.filename, sha256=released.sha256)
        state = checkpoints.load(checkpoint, "resnet20_released").state_dict()
    except ValueError as error:
        raise InputError(str(error)) from None
    measured, detail = first_batch.scale_error(state, images)
    protocol = "the released layers from the released full-precision checkpoint, one forward pass in training mode"
    return {"measured": measured, "detail": detail, "runs": 1, "images": len(images), "protocol": protocol}


def jobs(options: Options) -> list[Job]:
    """Return the job of each line that takes the checkpoints."""
    return [line.job for line in lines(options)]


def judged(options: Options, measured: Measured) -> Iterator[Cell]:
    """Judge the lines that take the checkpoints, where they are measured."""
    for line in lines(options):
        cell = dataclasses.replace(measured[line.job.place], reported=line.says)
        if cell.value_verdict is None:
            agrees = None if line.agrees is None else line.agrees(cell)
            verdict = None if agrees is None else ("matches" if agrees else "released file differs")
            cell = dataclasses.replace(cell, value_verdict=verdict, reason=line.explains(cell))
        yield cell


def run(options: Options, measured: Measured) -> Table:
    """Compute what can be, and judge what was measured."""
    computed = [*kernel_cells(), *read_cells(), *tie_cells(), *maximum_cells(), *literal_cells()]
    found = (*computed, *judged(options, measured))
    return Table("code", TITLE, INTRO, found, findings=_findings(found), layout="list")


def _findings(found: Sequence[Cell]) -> tuple[str, ...]:
    """State the differences; and NaN once, for the paper's gamma."""
    differ = [
        f"{cell.row}: {cell.reason} (printed: {cell.reported})."
        for cell in found
        if cell.value_verdict in ("differs", "released file differs")
    ]
    not_finite = [
        f"The released softmax gives {cell.row}: {cell.reason}."
        for cell in found
        if cell.row == f"NaN beside a tie, gamma = {daq.GAMMA:g}" and cell.measured is not None
    ]
    return (*differ, *not_finite)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("code"))
