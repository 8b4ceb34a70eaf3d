"""What the comparisons share: their options, their clocks, and the ratio of neighbours in rounds."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def parser_of(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every comparison; ``doc``: the benchmark's docstring, whose first line is shown."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of each contestant; processes of those who use them")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", action="store_true", help="the figures as JSON in the last line")
    return parser


def add_timing(parser: argparse.ArgumentParser, steps: int) -> None:
    """The options of a comparison of training steps."""
    parser.add_argument("--steps", type=int, default=steps, help="of each contestant in a round")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: time of this process, for a machine that others use too"
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; ends the process where there are too few rounds for a spread."""
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds: the spread needs two or more")
    return options


def spread(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile) of ``values`` over ``others``, round by round."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, median, high
