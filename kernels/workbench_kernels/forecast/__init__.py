"""Forecasts from finite differences, for all modules of a network at once."""
