"""MLflow, spoken to by explicit run ids: the one package that imports it."""

from infra.tracking.addresses import OfAlias, OfRun, Place, read_address
from infra.tracking.runs import FINGERPRINT, TAG_LIMIT, RunInfo
from infra.tracking.store import database_uri, shown
from infra.tracking.tracker import Tracker, open_tracker
from infra.tracking.values import flatten

__all__ = [
    "FINGERPRINT",
    "TAG_LIMIT",
    "OfAlias",
    "OfRun",
    "Place",
    "RunInfo",
    "Tracker",
    "database_uri",
    "flatten",
    "open_tracker",
    "read_address",
    "shown",
]
