"""Ray Tune: when trials start, and when they stop."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipelines.sweeps.probe_exchange import PROBE, STEP, ProbeExchange
from pipelines.sweeps.search import Search

# Read by Tune: no tables on stdout, no files for viewers that nobody here uses.
QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
REDUCTION = 3  # of ASHA: so many trials reach a rung for one that goes on
TRIES = 3  # for a trial whose process in Tune was killed


class Proposals(Searcher):
    """Tune's view of a `Search`: which trial is next, and which have ended.

    Tune's own snapshots are not used, for a sweep is continued from its ledger; so there is nothing to save.
    """

    def __init__(self, search: Search) -> None:
        super().__init__(metric=PROBE, mode="max")
        self._search = search
        self._live: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Start the next trial, unless as many are under way as there is room for."""
        if len(self._live) >= self._search.side_by_side:
            return None
        proposal = self._search.next()
        if isinstance(proposal, str):
            return None if proposal == "wait" else Searcher.FINISHED
        self._live[trial_id] = proposal.number
        self._search.start(proposal)
        return {"number": proposal.number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, or Tune stops it; or Tune has lost, for good, what reports its probes."""
        number = self._live.pop(trial_id)
        if error:
            self._search.release(number)
        else:
            self._search.stop(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Proposals":
        return self


def scheduler(name: str, ends: list[int]) -> TrialScheduler:
    """Tune's scheduler; ``ends``: the steps of the probes. The members of a population stop by themselves."""
    if name != "asha":
        return FIFOScheduler()  # type: ignore[no-untyped-call]  # Ray's own
    # The last probe comes with the end of a trial: past it there is nothing to stop.
    return ASHAScheduler(
        time_attr=STEP, metric=PROBE, mode="max", max_t=ends[-1] + 1, grace_period=ends[0], reduction_factor=REDUCTION
    )


def tune_trials(search: Search, exchange: ProbeExchange, scheduled: TrialScheduler, folder: Path) -> None:
    """Run the trials of ``search`` under Ray Tune; raises what went wrong beyond a single trial.

    ``folder``: for what Tune writes, removed afterwards.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def trial(config: dict[str, Any]) -> None:
        exchange.follow(config["number"])

    try:
        tune.Tuner(
            tune.with_resources(trial, _beside_command()),
            tune_config=tune.TuneConfig(
                search_alg=Proposals(search), scheduler=scheduled, num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=TRIES),
            ),
        ).fit()
        search.join()  # of a trial that Tune has lost, the training may still be under way
    finally:
        search.stop_all()
        try:
            search.join()
        finally:
            shutil.rmtree(folder / "tune", ignore_errors=True)


def _beside_command() -> tune.PlacementGroupFactory:
    """Where Tune's part of a trial runs: on the node of this process, without which there is no sweep.

    It needs no core, so that no trial waits for the workers of another.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray gives it no types
    resources = next(node["Resources"] for node in nodes if node["NodeID"] == here)
    own = next(name for name in resources if name.startswith("node:") and not name.startswith("node:__"))
    # Nodes that share an address, as in tests, have this resource in common.
    return tune.PlacementGroupFactory([{own: 0.001}], bundle_label_selector=[{"ray.io/node-id": here}])
