"""What must be known to believe a number, kept in MLflow; the only importer of mlflow.

A record is opened before training and closed whatever happens: FINISHED, FAILED with the traceback as an artifact, or
KILLED when a person interrupts. Runs are addressed by their id through MLflow's client; MLflow's notion of an "active
run" is left alone, so that several records can be open at once.
"""

import getpass
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is down is told of at once
for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

import mlflow  # noqa: E402 (its first use of a database is loud, and is told so before)
from mlflow.artifacts import download_artifacts as _download  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from frostline.errors import RequestError  # noqa: E402
from frostline.nearest import did_you_mean  # noqa: E402

__all__ = ["REGISTERED", "Run", "RunRecord", "Store", "Tracking", "masked"]

_URI = "MLFLOW_TRACKING_URI"
REGISTERED = "models:/"
"""What the address of a model in MLflow's registry begins with."""

_UNNAMEABLE = re.compile(r"[^\w\-. :/]")
"""What MLflow takes in no metric's name; a class may be called anything."""

LONGEST_PARAM = 6000
"""MLflow's limit on the characters of a parameter; longer ones stand whole in the artifact config.yaml."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where runs are logged.

    Attributes:
        uri: MLflow's tracking URI; by default `mlflow.db`, an SQLite file in the working directory.
    """

    uri: str | None = None

    @property
    def resolved(self) -> str:
        """The URI with the default filled in, absolute, so that it means the same from any directory."""
        return self.uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


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

    @property
    def address(self) -> str:
        """The store's URI without user name and password."""
        return masked(str(self.client.tracking_uri))

    def runs(self, **tags: str) -> list[Run]:
        """Return the experiment's runs that carry these tags (`phase="study"` is `frostline.phase`), newest first."""
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

    def record(self, name: str, *, tags: Mapping[str, str], parent: str | None = None) -> "RunRecord":
        """Open the record of a new run, a child of `parent` where that is given."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        origin = {"mlflow.source.name": "frostline", **_process()}
        run = self.client.create_run(
            self.experiment_id,
            run_name=name,
            tags={**{_tag(key): value for key, value in tags.items()}, **nested, **origin},
        )
        return RunRecord(store=self, run_id=run.info.run_id)

    def reopen(self, run_id: str) -> "RunRecord":
        """Open the record of an existing run again."""
        self.client.update_run(run_id, status="RUNNING")
        record = RunRecord(store=self, run_id=run_id)
        record.tags(_process())
        return record

    def resume(self, run_id: str) -> "RunRecord":
        """Open the record of an interrupted run again; what it has logged up to a step is not logged twice."""
        record = self.reopen(run_id)
        for key, points in self.history(run_id).items():
            record.logged[key] = max(step for step, _ in points)
        return record

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

    def has(self, run_id: str, folder: str) -> bool:
        """Tell whether a run has artifacts under this path."""
        return bool(self.client.list_artifacts(run_id, folder))

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
        """Return a local path of an artifact, downloaded where the store is remote.

        Raises:
            RequestError: The store has no such run, or the run no such artifact.
        """
        try:
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


@dataclass(kw_only=True)
class RunRecord:
    """The open record of one run; a context manager that closes it.

    Attributes:
        store: Where it is.
        run_id: The run.
        logged: By metric, the step up to which nothing is logged again.
        taken_over: The last step of what was taken over from another run; -1 where nothing was.
    """

    store: Store
    run_id: str
    logged: dict[str, int] = field(default_factory=dict)
    taken_over: int = -1
    _metrics: list[Metric] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("FINISHED")
        elif isinstance(error, KeyboardInterrupt):
            self.close("KILLED")
        else:
            try:
                self.text("traceback.txt", "".join(traceback.format_exception(kind, error, trace)))
            finally:
                self.close("FAILED")

    def close(self, status: str) -> None:
        """Write what is left and end the run."""
        self.flush()
        self.store.client.set_terminated(self.run_id, status)

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; one that is too long for MLflow is cut and marked, and stands whole in config.yaml."""
        entries = [Param(key, _fitting(masked(str(value)))) for key, value in params.items()]
        for first in range(0, len(entries), 100):
            self.store.client.log_batch(self.run_id, params=entries[first : first + 100])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, under `frostline.` where a name has no prefix."""
        entries = [RunTag(_tag(key), value) for key, value in tags.items()]
        self.store.client.log_batch(self.run_id, tags=entries)

    def metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics at a step; they are written together at the next `flush`."""
        named = {_UNNAMEABLE.sub("_", key): float(value) for key, value in metrics.items()}
        new = {key: value for key, value in named.items() if step > self.logged.get(key, -1)}
        self._metrics += [Metric(key, value, int(time() * 1000), step) for key, value in new.items()]

    def take_over(self, history: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Log what another run had logged where this one goes on from it; up to there nothing is logged twice."""
        for key, points in history.items():
            for step, value in points:
                self.metrics({key: value}, step=step)
            last = max(step for step, _ in points)
            self.logged[key] = max(self.logged.get(key, -1), last)
            self.taken_over = max(self.taken_over, last)

    def flush(self) -> None:
        """Write the metrics gathered so far."""
        entries, self._metrics = self._metrics, []
        for first in range(0, len(entries), 1000):
            self.store.client.log_batch(self.run_id, metrics=entries[first : first + 1000])

    def text(self, name: str, text: str) -> None:
        """Keep a text as an artifact."""
        with self.artifact(name) as path:
            path.write_text(masked(text))

    def json(self, name: str, value: Any) -> None:
        """Keep plain data as an artifact."""
        self.text(name, json.dumps(value, indent=2) + "\n")

    @contextmanager
    def artifact(self, name: str) -> Iterator[Path]:
        """Give a path to write an artifact to; it is kept under `name` once the block ends."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            yield path
            parent = str(Path(name).parent)
            self.store.client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def dataset(self, *, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """Log a dataset as an input of the run.

        Args:
            name: The dataset's name.
            digest: A hash of its content; MLflow keeps 36 characters.
            source: Where it came from.
            context: What it was used for: train, val or test.
            profile: Counts.
        """
        entity = Dataset(
            name=name,
            digest=digest[:36],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile),
        )
        inputs = [DatasetInput(entity, tags=[InputTag("mlflow.data.context", context)])]
        with _alone(str(self.store.client.tracking_uri)):
            self.store.client.log_inputs(self.run_id, datasets=inputs)


def _quoted(value: str) -> str:
    """Write a value as MLflow's filters take it: in the quotes that it does not hold."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _tag(key: str) -> str:
    """Return a tag's whole name: ours stand under `frostline.`, MLflow's own keep theirs."""
    return key if "." in key else f"frostline.{key}"


def _process() -> dict[str, str]:
    """Return the tags by which a record whose process has died is known."""
    return {"frostline.host": socket.gethostname(), "frostline.pid": str(os.getpid())}


def masked(text: str) -> str:
    """Hide the user name and password of every URI in a text."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


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


def _refuse_an_absent_file(uri: str) -> None:
    """MLflow would create the file of a store that is only to be read."""
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        raise RequestError(f"tracking.uri: there is no store at {file}; is this the folder where it was made?")


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


@cache
def _connected(uri: str) -> MlflowClient:
    _refuse_a_file_that_cannot_be_written(uri)
    try:
        with _alone(uri):
            return MlflowClient(uri)
    except Exception as error:  # each kind of store has its own errors, also those of its driver
        raise RequestError(f"tracking.uri: {masked(uri)} cannot be opened: {masked(str(error)).strip()}") from error


def _alone(uri: str) -> FileLock:
    """Let one process of a user at a time do what MLflow does without looking around: make tables, and datasets."""
    name = hashlib.sha256(f"{_user()} {uri}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"frostline-{name}.lock")


def _user() -> str:
    """Return who runs this: by number where the system has numbers, since a container's user may have no name."""
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


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


def _fitting(value: str) -> str:
    mark = " ... (whole in config.yaml)"
    return value if len(value) <= LONGEST_PARAM else value[: LONGEST_PARAM - len(mark)] + mark


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
