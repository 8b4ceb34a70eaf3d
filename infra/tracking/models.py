"""Encoders as MLflow knows them: models of the runs that trained them, and versions of registered models."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import OutsideError
from infra.storage import fetch_files, is_remote, local_path
from infra.tracking.addresses import OfAlias, OfModel, OfRun, OfVersion, Place, read_address
from infra.tracking.runs import Runs, move_into_place
from infra.tracking.store import readable, shown
from infra.tracking.values import flatten, text

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

ALIAS = "best"
ENCODER_FILES = ("config.json", "encoder.safetensors")
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers to a name that nothing has


class Models:
    """The encoders of an experiment. Methods raise OutsideError as those of its `Store` do."""

    def __init__(self, store: Runs) -> None:
        self.store = store

    @readable
    def log_encoder(
        self,
        run_id: str,
        folder: Path,
        name: str = "encoder",
        scores: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Store an encoder's own files as a model of the run, with its scores; returns the model's id."""
        from mlflow.entities import LoggedModelOutput

        model = self.store.client.create_logged_model(
            self.store.experiment_id,
            name=name,
            source_run_id=run_id,
            model_type="encoder",
            params={key: text(value)[:500] for key, value in flatten(params or {}).items()},
            tags=dict(tags or {}),
        )
        self.store.client.log_model_artifacts(model.model_id, str(folder))
        self.store.client.finalize_logged_model(model.model_id, "READY")
        self.store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
        if scores:
            self.store.log_metrics(run_id, scores, step, model_id=model.model_id)
        return str(model.model_id)

    @readable
    def register_encoder(
        self,
        name: str,
        model_id: str,
        metric: str,
        score: float,
        description: str = "",
        about: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> tuple[int, bool]:
        """Make a model a version of the registered model ``name``; the alias `best` moves to it if ``score`` is higher.

        Scores are compared only under the same ``metric``. Registering a model again returns the version it has,
        with the new description and tags. ``description`` is the version's, ``about`` that of the registered model,
        both Markdown; ``tags`` are the version's.
        Returns (version, whether it is now the best).
        """
        model = self.store.client.get_logged_model(model_id)
        known = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
        version = next((int(entry["version"]) for entry in known if entry["name"] == name), None)
        if version is None:
            version = self._create_version(name, model, {"metric": metric, "score": repr(score)}, known, description)
        elif description and self.store.client.get_model_version(name, str(version)).description != description:
            self.store.client.update_model_version(name, str(version), description)
        for key, value in (tags or {}).items():
            self.store.client.set_model_version_tag(name, str(version), key, value)
        if about and self.store.client.get_registered_model(name).description != about:
            self.store.client.update_registered_model(name, about)
        best = self._best(name)
        if best is None or best[1] != metric or score > best[2]:
            self.store.client.set_registered_model_alias(name, ALIAS, str(version))
            return version, True
        return version, best[0] == version

    @readable
    def tag_version(self, uri: str, tags: Mapping[str, str]) -> None:
        """Tag the version of a registered model, ``models:/NAME/VERSION``; nothing, where somebody has deleted it."""
        from mlflow.exceptions import MlflowException

        address = read_address(uri)
        if not isinstance(address, OfVersion):
            raise ValueError(f"{uri} is not models:/NAME/VERSION")
        try:
            for key, value in tags.items():
                self.store.client.set_model_version_tag(address.name, address.version, key, value)
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise

    def _create_version(
        self, name: str, model: "LoggedModel", tags: dict[str, str], known: list[dict[str, Any]], description: str
    ) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.store.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.store.client.create_model_version(
            name,
            model.artifact_location,
            model.source_run_id,
            tags={key: value for key, value in model.tags.items() if not key.startswith("mlflow.")} | tags,
            description=description,
            model_id=model.model_id,
        )
        # A server ties the version to the model by this tag; a database opened directly leaves that to the client.
        entry = {"name": name, "version": int(made.version)}
        self.store.client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps([*known, entry])})
        return int(made.version)

    def _best(self, name: str) -> tuple[int, str, float] | None:
        """(version, metric, score) of the version that has the alias."""
        versions = self.store.client.get_registered_model(name).aliases
        if ALIAS not in versions:
            return None
        tags = self.store.client.get_model_version(name, versions[ALIAS]).tags
        return int(versions[ALIAS]), tags.get("metric", ""), float(tags.get("score", "-inf"))

    @readable
    def fetch_encoder(self, uri: str, cache: Path) -> Path:
        """A local folder with the encoder's files.

        ``uri``: a folder; s3://bucket/prefix; models:/NAME@best; models:/NAME/VERSION; models:/m-ID; runs:/ID/NAME.
        Raises OutsideError where there is none.
        """
        address = read_address(uri)
        if not isinstance(address, Place):
            return self._fetch_location(self._location(address, uri), cache)
        folder, missing = fetch_files(address.url, ENCODER_FILES, cache / "encoders")
        if missing:
            raise OutsideError(
                f"no encoder at {uri}: it has no {missing[0]}; a folder or s3:// with {' and '.join(ENCODER_FILES)}, "
                "models:/NAME@best, models:/NAME/VERSION or runs:/RUN_ID/encoder would be right"
            )
        return folder

    @readable
    def source_run(self, uri: str) -> str | None:
        """The id of the run that left the encoder ``uri``; None for a place, and where MLflow does not know."""
        client = self.store.client
        match read_address(uri):
            case OfRun(run_id, _):
                return run_id
            case OfVersion(name, version):
                found = client.get_model_version(name, version).run_id
            case OfAlias(name, alias):
                found = client.get_model_version_by_alias(name, alias).run_id
            case OfModel(model_id):
                found = client.get_logged_model(model_id).source_run_id
            case _:
                return None
        return str(found) if found else None

    def _location(self, address: OfRun | OfVersion | OfAlias | OfModel, uri: str) -> str:
        """Where MLflow keeps a model's files."""
        from mlflow.exceptions import MlflowException

        client = self.store.client
        try:
            match address:
                case OfRun(run_id, name):
                    return self._location_in_run(run_id, name or "encoder")
                case OfVersion(name, version):
                    return str(client.get_model_version(name, version).source)
                case OfAlias(name, alias):
                    return str(client.get_model_version_by_alias(name, alias).source)
                case OfModel(model_id):
                    return str(client.get_logged_model(model_id).artifact_location)
        except MlflowException as error:
            if error.error_code in UNKNOWN:
                raise OutsideError(f"no encoder {uri} at {shown(self.store.uri)}: {error.message}") from error
            raise

    def _location_in_run(self, run_id: str, name: str) -> str:
        experiment = self.store.client.get_run(run_id).info.experiment_id
        models = self.store.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        ready = [model for model in models if model.status == "READY" and model.name == name]
        if not ready:
            raise OutsideError(f"run {run_id} at {shown(self.store.uri)} has no encoder called {name!r}")
        return str(max(ready, key=lambda model: model.creation_timestamp).artifact_location)

    def _fetch_location(self, location: str, cache: Path) -> Path:
        if not is_remote(location) and (local := local_path(location)).is_dir():
            return local
        from mlflow.artifacts import download_artifacts

        target = cache / "encoders" / re.sub(r"\W+", "-", location)
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "encoders").mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                got = download_artifacts(artifact_uri=location, dst_path=folder, tracking_uri=self.store.uri)
                move_into_place(Path(got), target)
        return target
