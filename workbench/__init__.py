"""Transformer Workbench: efficient-Transformer papers as readable references, fast kernels, lessons and a dashboard."""

__version__ = "0.1.0"
