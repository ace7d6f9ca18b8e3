"""Layered quantum circuits, simulated classically."""
