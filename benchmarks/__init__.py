"""Speed, side by side with what it is compared to, in one run: `python -m benchmarks.NAME --json`."""
