"""Prepared data: opened, grown, verified, looked at."""
