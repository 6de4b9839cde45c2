"""What was recorded, found again: one experiment in an MLflow store, which any number of processes share.

Runs are addressed by their id. What is written of a run while it goes on is `record.py`'s.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import mlflow
from mlflow.artifacts import download_artifacts as _download
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from frostline.errors import RequestError
from frostline.nearest import did_you_mean
from frostline.record import RunRecord, Tracking, alone, artifacts_here, masked

__all__ = ["REGISTERED", "Run", "Store"]

_URI = "MLFLOW_TRACKING_URI"
REGISTERED = "models:/"
"""What the address of a model in MLflow's registry begins with."""


@dataclass(kw_only=True)
class Store:
    """One experiment in one MLflow store."""

    client: MlflowClient
    experiment_id: str

    @classmethod
    def open(cls, tracking: Tracking, experiment: str, *, create: bool = True) -> Self:
        """Connect to the store and find the experiment, or create it.

        Raises:
            RequestError: The store cannot be reached, or the experiment is not there and is not to be created.
        """
        if not create:
            _refuse_an_absent_file(tracking.resolved)
        client = _client(tracking.resolved)
        found = _experiment(client, experiment)
        if found is None and not create:
            raise RequestError(
                f"experiment_name: {masked(tracking.resolved)} has no experiment '{experiment}'; "
                "run a study first, or point tracking.uri at the store that has it"
            )
        return cls(client=client, experiment_id=found.experiment_id if found else _create(client, experiment))

    @classmethod
    def reading(cls, tracking: Tracking, experiment: str) -> Self | None:
        """Connect to a store in which nothing is to be made; None where there is none.

        In an experiment that is not there, nothing is recorded; the runs of others can be read.

        Raises:
            RequestError: The store cannot be reached.
        """
        if not _is_there(tracking.resolved):
            return None
        client = _client(tracking.resolved)
        found = _experiment(client, experiment)
        return cls(client=client, experiment_id=found.experiment_id if found else "")

    @classmethod
    def holding(cls, tracking: Tracking, run_id: str) -> Self:
        """Connect to the store and to the experiment that a run is in.

        Raises:
            RequestError: The store cannot be reached, or has no such run.
        """
        _refuse_an_absent_file(tracking.resolved)
        client = _client(tracking.resolved)
        try:
            return cls(client=client, experiment_id=client.get_run(run_id).info.experiment_id)
        except MlflowException as error:
            raise RequestError(
                f"run {run_id}: {masked(tracking.resolved)} has none of this id; is tracking.uri where it was logged?"
            ) from error

    @property
    def address(self) -> str:
        """The store's URI without user name and password."""
        return masked(str(self.client.tracking_uri))

    def runs(self, **tags: str) -> list[Run]:
        """Return the experiment's runs that carry these tags (`phase="study"` is `frostline.phase`), newest first."""
        if not self.experiment_id:
            return []
        clauses = " and ".join(f"tags.`frostline.{key}` = {_quoted(value)}" for key, value in tags.items())
        return list(
            self.client.search_runs([self.experiment_id], clauses, max_results=10_000, order_by=["start_time DESC"])
        )

    def run(self, run_id: str) -> Run:
        """Return a run."""
        return self.client.get_run(run_id)

    def finished(self, signature: str) -> Run | None:
        """Return a finished run of this signature, the newest."""
        return next((run for run in self.runs(signature=signature) if run.info.status == "FINISHED"), None)

    def history(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Return what a run has logged until now: by metric, each step and its value."""
        names = self.run(run_id).data.metrics
        return {n: [(m.step, m.value) for m in self.client.get_metric_history(run_id, n)] for n in names}

    def record(self, name: str, *, tags: Mapping[str, str], parent: str | None = None) -> RunRecord:
        """Open the record of a new run, a child of `parent` where that is given."""
        return RunRecord.new(self.client, self.experiment_id, name, tags=tags, parent=parent)

    def reopen(self, run_id: str) -> RunRecord:
        """Open the record of an existing run again."""
        return RunRecord.reopened(self.client, self.experiment_id, run_id)

    def resume(self, run_id: str) -> RunRecord:
        """Open the record of an interrupted run again; what it has logged up to a step is not logged twice."""
        record = self.reopen(run_id)
        for key, points in self.history(run_id).items():
            record.logged[key] = max(step for step, _ in points)
        return record

    def has(self, run_id: str, artifact: str) -> bool:
        """Tell whether a run has an artifact of this path, a file or a folder."""
        parent = str(Path(artifact).parent)
        beside = self.client.list_artifacts(run_id, None if parent == "." else parent)
        return any(each.path == artifact for each in beside)

    def bury_the_dead(self) -> None:
        """Mark as KILLED every run that says RUNNING but whose process, on this host, is gone."""
        query = f"attributes.status = 'RUNNING' and tags.`frostline.host` = '{socket.gethostname()}'"
        for run in self.client.search_runs([self.experiment_id], query):
            if not _alive(int(run.data.tags["frostline.pid"])):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def read(self, run_id: str, artifact: str) -> str:
        """Return the text of an artifact."""
        return self.fetch(run_id, artifact).read_text()

    def fetch(self, run_id: str, artifact: str) -> Path:
        """Return the path of an artifact, not to be written to; it is downloaded where the store is remote.

        Raises:
            RequestError: The store has no such run, or the run no such artifact.
        """
        try:
            here = artifacts_here(self.client, run_id)
            if here is not None and (here / artifact).exists():  # MLflow would copy it, and leave the copy behind
                return here / artifact
            return Path(self.client.download_artifacts(run_id, artifact))
        except (MlflowException, OSError) as error:
            raise RequestError(f"run {run_id}: {self._why_not(run_id, artifact)}") from error

    def registered(self, uri: str) -> Path:
        """Return a local path of what a version in the model registry holds, downloaded where the store is remote.

        Args:
            uri: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

        Raises:
            RequestError: The registry has no such model, version or alias.
        """
        asked = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", uri)
        if asked is None:
            raise RequestError(
                f"init_from={uri}: a model of the registry is models:/NAME/VERSION or models:/NAME@ALIAS"
            )
        name, version, alias = asked.groups()
        try:
            if alias is not None:
                version = self.client.get_model_version_by_alias(name, alias).version
            return Path(_download(self.client.get_model_version_download_uri(name, str(version))))
        except (MlflowException, OSError) as error:
            raise RequestError(f"init_from={uri}: {self._why_not_registered(name, uri)}") from error

    def _why_not_registered(self, name: str, uri: str) -> str:
        models = {model.name: model for model in self.client.search_registered_models()}
        if name not in models:
            return f"the registry has no model '{name}'; {did_you_mean(name, models) if models else 'it is empty'}"
        versions = sorted(int(each.version) for each in self.client.search_model_versions(f"name = '{name}'"))
        aliases = sorted(models[name].aliases)
        known = [*(f"/{version}" for version in versions), *(f"@{alias}" for alias in aliases)]
        if uri.removeprefix(f"{REGISTERED}{name}") in known:
            return "the version is registered, but what it was made of is gone; choose another, or register it anew"
        return f"'{name}' has no such version; there are {', '.join(known) or 'none'}"

    def _why_not(self, run_id: str, artifact: str) -> str:
        try:
            self.run(run_id)
        except MlflowException:
            return f"{masked(self.client.tracking_uri)} has none of this id; is tracking.uri where it was logged?"
        return f"has no {artifact}; only a run that FINISHED has all its artifacts"


def _client(uri: str) -> MlflowClient:
    """Connect to a store, and make it the one whose artifacts are read: those of a local store need a global setting.

    The setting is kept out of the environment, where the next config would take it for the user's choice.
    """
    chosen = os.environ.get(_URI)
    mlflow.set_tracking_uri(uri)
    os.environ.pop(_URI, None)
    if chosen is not None:
        os.environ[_URI] = chosen
    return _connected(uri)


@cache
def _connected(uri: str) -> MlflowClient:
    _refuse_a_file_that_cannot_be_written(uri)
    try:
        with alone(uri):
            return MlflowClient(uri)
    except Exception as error:  # each kind of store has its own errors, also those of its driver
        raise RequestError(f"tracking.uri: {masked(uri)} cannot be opened: {masked(str(error)).strip()}") from error


def _refuse_an_absent_file(uri: str) -> None:
    """MLflow would create the file of a store that is only to be read."""
    if not _is_there(uri):
        file = uri.removeprefix("sqlite:///")
        raise RequestError(f"tracking.uri: there is no store at {file}; is this the folder where it was made?")


def _is_there(uri: str) -> bool:
    """Tell whether a store has been made before; of one on a server, whoever connects to it will know."""
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def _refuse_a_file_that_cannot_be_written(uri: str) -> None:
    """MLflow would try again for minutes."""
    if not uri.startswith("sqlite:///"):
        return
    file = Path(uri.removeprefix("sqlite:///"))
    for place in (file.parent, *([file] if file.exists() else [])):
        if not os.access(place, os.W_OK):
            raise RequestError(
                f"tracking.uri: {place} cannot be written to; work in a folder of your own, or name another store"
            )


def _experiment(client: MlflowClient, name: str) -> Experiment | None:
    try:
        return client.get_experiment_by_name(name)
    except MlflowException as error:
        raise RequestError(
            f"tracking.uri: {masked(client.tracking_uri)} does not answer: {masked(str(error))}"
        ) from error


def _create(client: MlflowClient, name: str) -> str:
    """Create an experiment; a process that was faster is no error. Artifacts lie beside a local database."""
    local = client.tracking_uri.removeprefix("sqlite:///")
    location = None if local == client.tracking_uri else (Path(local).absolute().parent / "mlruns").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if name else None
        if found is None:
            raise RequestError(f"experiment_name: '{name}' cannot be created: {masked(str(error))}") from error
        return str(found.experiment_id)


def _quoted(value: str) -> str:
    """Write a value as MLflow's filters take it: in the quotes that it does not hold."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
