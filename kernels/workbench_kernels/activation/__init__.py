"""Activations of a feed-forward block, each in one pass over its rows."""
