"""Attention: how tokens exchange information."""
