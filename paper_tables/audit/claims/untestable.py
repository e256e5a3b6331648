"""Claims that nothing in the suite can decide, by the reason why: what would test them."""

from __future__ import annotations

from paper_tables.audit.claims.judging import Evidence, Judged, Judgements

judges = Judgements()

UNTESTABLE: dict[str, tuple[str, ...]] = {
    "About other papers' methods, numbers or code, which the suite does not have; their own texts would decide.": (
        "intro-networks-are-large",
        "intro-pruning-and-distillation-keep-floating-point",
        "related-weights-only-cost",
        "related-weights-and-activations",
        "related-rq-degrades",
        "numbers-from-each-paper",
        "lsq-preactivated",
        "lsq-numbers-from-lsq-plus",
        "irnet-bi-real",
        "irnet-same-architectures-only",
        "qil-computationally-demanding",
        "profit-specially-designed",
    ),
    "Of the methods cited the suite has LQ-Nets [49] alone, whose levels are fitted to the least error; the other "
    "papers would decide.": ("related-nonuniform-less-error",),
    "The released network has ReLUs before all its quantizers, to which the exception at the end applies; one without "
    "would decide.": ("activation-bounds-at-3-sigma",),
    "To be the first is a claim about all earlier work; a survey of it would decide.": (
        "intro-first-to-alleviate-both",
        "dsq-first-implementation",
    ),
    "An opinion or an aim: no number could contradict it.": (
        "abstract-no-bells-and-whistles",
        "conclusion-no-bells-and-whistles",
        "contribution-extensive-analysis",
        "dsq-bridges-gap",
    ),
    "Is about what training does, or why. It takes runs by the papers' protocol, of networks that differ in nothing "
    "else, which are not recorded; what shorter runs say stands under training.": (
        "intro-ste-noisy-training",
        "intro-ste-worse-accuracy",
        "related-ste-allows-training",
        "related-ste-degrades-drastically",
        "dasr-effective-on-mismatch",
        "mismatch-worse-at-low-bit-width",
        "better-model-better-initialization",
        "beta-150-fails",
        "beta-150-explodes",
        "dsq-evolves-to-standard",
        "dsq-others-unstable",
    ),
    "The curves are printed as a picture only. It takes runs by the paper's protocol, which are not recorded; what "
    "shorter runs say stands in Table 7 and Figure 6.": ("figure6-better-during-training",),
    "It takes runs of both methods on the paper's images, timed on one machine, which the suite does not have yet.": (
        "profit-costs-more",
    ),
    "It takes the training loop timed on a GPU, which the suite does not do yet. (In closed form the gradient needs no "
    "temperature at all: it is one factor.)": ("controller-slower-because",),
    "What the authors did in their experiments. Neither the printed tables nor what the suite reads of the released "
    "checkpoints shows it; training logs would.": (
        "mobilenet-all-layers",
        "grid-search",
        "best-on-cifar10-validation",
        "fixed-for-all-experiments",
        "validation-from-training-split",
        "sgd-rate-mobilenet",
        "imagenet-recipe",
        "imagenet-weight-decay",
        "mobilenet-weight-decay",
        "imagenet-splits",
        "compared-within-dasr",
        "annealing-2-to-48",
        "combined-ste-recipe",
        "table7-rtx-2080ti",
    ),
    "The suite has no ImageNet.": ("imagenet-size",),
    "The text at hand keeps bold type in Table 4 only (there it is the best).": ("table2-bold-is-best",),
}


def _untestable(reason: str, claims: tuple[str, ...]) -> None:
    @judges(*claims)
    def judgement(_: Evidence) -> Judged:
        return "not testable", reason


for _reason, _claims in UNTESTABLE.items():
    _untestable(_reason, _claims)
