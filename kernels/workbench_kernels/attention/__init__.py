"""Exact attention in blocks, and what every attention kernel shares."""
