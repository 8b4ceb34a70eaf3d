"""The parts of the transfer table."""
