"""Pretext tasks: base.py is the contract; every other file is one task."""
