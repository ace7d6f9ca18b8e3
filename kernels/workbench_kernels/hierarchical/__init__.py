"""Attention over a tree of tokens, up and back down."""
