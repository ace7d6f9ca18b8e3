"""Attention whose rows and columns are normalised in turn."""
