"""The tracker: what a workflow writes down, in one MLflow experiment."""

import os
from functools import cached_property
from pathlib import Path

from infra.tracking.models import Models
from infra.tracking.runs import Runs
from infra.tracking.store import database_uri


class Tracker(Runs):
    """Runs, their values, their files; and `models`, the encoders that they leave."""

    @cached_property
    def models(self) -> Models:
        """The encoders of the experiment."""
        return Models(self)


def open_tracker(home: Path, uri: str | None = None, experiment: str = "genoise") -> Tracker:
    """The tracker at ``uri``, at MLFLOW_TRACKING_URI, or else in ``<home>/mlflow.db`` with ``<home>/mlartifacts``."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Tracker(uri, experiment=experiment)
    home = home.resolve()
    return Tracker(database_uri(home / "mlflow.db"), home / "mlartifacts", experiment)
