"""Factorisations of many small matrices at once."""
