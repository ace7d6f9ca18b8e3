"""Triton kernels, one file an operation; they know nothing of papers."""
