"""A sweep under a real Ray Tune whose trials take no time, for `test_ray_tune`: prints one JSON object."""

import json
import sys
from pathlib import Path
from typing import Any

from infra.cluster import connect, leave
from pipelines.sweeps.config import probe_steps
from pipelines.sweeps.probe_exchange import ProbeExchange
from pipelines.sweeps.ray_tune import scheduler, tune_trials
from pipelines.sweeps.records import Proposal, Record
from tests.pipelines.sweeps.test_search import Home, sweep

BATCH = 16


class Trials:
    """Each trial probes three times; the better its weight, the higher."""

    samples = 64

    def __init__(self, exchange: ProbeExchange) -> None:
        self.exchange = exchange
        self.ran: list[int] = []

    def run(self, proposal: Proposal, run_id: str) -> Record:
        """Until the end, or until it is told to stop, as the workers of a training do."""
        self.ran.append(proposal.number)
        quality = 1 / (1 + proposal.point.get("weights.l2", 1.0))
        probes: list[tuple[int, float]] = []
        for step in (4, 8, 12):
            probes.append((step, quality * step / 12))
            if proposal.searched and step < 12 and not self.exchange.judge(proposal.number, *probes[-1]):
                return Record(proposal, "stopped", {}, {}, probes, 1.0, step * BATCH, run_id)
        return Record(proposal, "finished", {"linear": quality}, {}, probes, 10.0, 12 * BATCH, run_id)


def search(folder: Path) -> dict[str, Any]:
    """Sweep in ``folder``, or continue what was begun there."""
    wanted = sweep(scheduler="asha", trials=6)
    exchange = ProbeExchange.open()
    home = Home(folder, wanted)
    trials: Any = Trials(exchange)
    home.search.exchange, home.search.trials = exchange, trials
    ends = probe_steps(wanted.recipes[0], trials.samples)
    tune_trials(home.search, exchange, scheduler("asha", ends), folder)
    exchange.close()
    records = home.search.ledger.records
    return {
        "ran": sorted(trials.ran),
        "records": {
            number: {"state": record.state, "images": record.images, "best": record.probes[-1][1]}
            for number, record in records.items()
        },
        "left": [path.name for path in folder.iterdir()],
    }


def main(folder: Path) -> dict[str, Any]:
    """Sweep, and give the same command again."""
    connect(min_cpus=2)
    found = {"first": search(folder), "again": search(folder)}
    leave()
    return found


if __name__ == "__main__":
    from tests.pipelines.sweeps import tuned  # so that what is sent is sent by name

    print(json.dumps(tuned.main(Path(sys.argv[1]))))
