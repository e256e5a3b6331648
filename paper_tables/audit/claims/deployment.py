"""Claims about deployed networks: integers throughout, less to compute and to keep, faster on ARM.

What kernels execute is counted (`paper_tables.arm_speed`): instructions, not time. Each function judges the claims
named above it.
"""

from __future__ import annotations

import numpy as np
import torch

from paper_tables import arm_speed
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide
from torchimpl import calibrate
from torchimpl.deployment import integer_block
from torchimpl.models import resnet20
from torchimpl.models.resnet import BasicBlock

judges = Judgements()

UNCOUNTED = (
    "It takes the counts of the table `arm`: packages that build the kernels for ARM and run them under emulation."
)


@judges("dsq-1-7-times-ncnn")
def times_ncnn(evidence: Evidence) -> Judged:
    every = arm_speed.judged(list(evidence.arm.values()))
    found = {engine.name: every[engine.name] for engine in arm_speed.ENGINES if engine.name in every}
    if not found:
        return "not testable", UNCOUNTED
    verdicts = {cell.claim_verdict for cell in found.values()}
    verdict: Verdict = "undecided"
    if "fails" not in verdicts:
        verdict = "holds" if "holds" in verdicts else "vacuous"
    elif "holds" not in verdicts:
        verdict = "fails"
    said = "; ".join(
        f"over {name} {cell.measured:.2f} at {cell.column}, {MEANS[cell.claim_verdict or '']}"
        for name, cell in found.items()
    )
    own = every[arm_speed.OWN.name]
    return verdict, (
        f"By instructions of ResNet-18's convolutions, not by time: {said}. Over the suite's own 8 bits it is "
        f"{own.measured:.2f}. DSQ's kernels were not released; these are the suite's."
    )


MEANS = {"holds": "reached", "fails": "not reached", "vacuous": "but that is a straw man, slower than plain 8 bits"}


@judges("dsq-accelerates-inference", "intro-less-memory-and-computation")
def less_computation(evidence: Evidence) -> Judged:
    sums = {column: evidence.arm.get((arm_speed.SUM, column)) for column in arm_speed.WIDTHS}
    bytes_ = {column: evidence.arm.get((arm_speed.STORED, column)) for column in arm_speed.WIDTHS}
    counted = {column: cell.measured for column, cell in sums.items() if cell is not None and cell.measured}
    stored = {column: cell.measured for column, cell in bytes_.items() if cell is not None and cell.measured}
    if len(counted) < len(sums) or len(stored) < len(bytes_):
        return "not testable", UNCOUNTED
    fewer = [column for column in counted if column != arm_speed.BASELINE]
    base = counted[arm_speed.BASELINE]
    ratios = ", ".join(f"{base / counted[column]:.2f} at {column}" for column in fewer)
    return decide(
        min(base / counted[column] for column in fewer) > 1 and max(stored.values()) == stored[arm_speed.BASELINE],
        f"Of ResNet-18's convolutions on ARM, kernels for fewer bits take fewer instructions than the 8-bit one: "
        f"{ratios} times. Stored without gaps, their weights take {', '.join(f'{stored[c]:.3g}' for c in fewer)} MB "
        f"instead of {4 * stored[arm_speed.BASELINE]:.3g} in 32 bits.",
    )


@judges("intro-fixed-point-inference")
def fixed_point(_: Evidence) -> Judged:
    different, codes = differing_codes()
    return decide(
        different == 0,
        "From the codes that a quantized convolution gets to those of the next one, scale, normalisation, activation "
        f"and quantizer become integer thresholds of its sums: in a residual block of ResNet-20, 2/2, {different} of "
        f"{codes:,} codes differ from the network's. Shortcuts, first and last layers stay in floating point there.",
    )


def differing_codes() -> tuple[int, int]:
    """Of a residual block, as drawn and calibrated: how many codes integers get wrong, and how many there are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.randn(8, 3, 16, 16)
        model = calibrate(resnet20("daq", (2, 2)), images).eval()
        block = model.layer1[0]
        assert isinstance(block, BasicBlock)
        x = model.activation(model.bn1(model.conv1(images)))
        inner = block.activation(block.bn1(block.conv1(x)))
        want = block.conv2.input_quantizer.codes(inner).numpy()  # type: ignore[operator, union-attr]
    deployed = integer_block(block)
    got = deployed.first.run(deployed.input_codes(x))
    return int((got != want).sum()), int(np.size(want))
