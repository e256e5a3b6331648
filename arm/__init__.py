"""Kernels that deploy 1- to 4-bit convolutions on ARM: their build, their run off ARM, and counts of what they do."""
