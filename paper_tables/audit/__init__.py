"""Audits of what is printed: arithmetic, significance, claims, and paper against released code."""
