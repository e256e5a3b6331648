"""Ground truth: what each quantizer computes, in numpy and numba. Never imports torch."""
