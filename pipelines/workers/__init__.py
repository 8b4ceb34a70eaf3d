"""Processes that do the work of a step, on this machine or elsewhere, and stay for the work of the next one."""
