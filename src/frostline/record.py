"""What must be known to believe a number, written to MLflow as a run goes on.

A record is opened before training and closed whatever happens: FINISHED, FAILED with the traceback as an artifact, or
KILLED when a person interrupts. It is written by the id of its run through MLflow's client; MLflow's notion of an
"active run" is left alone, so that several records can be open at once.

MLflow is imported here and in `store.py`, which finds what was recorded, and nowhere else.
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
from functools import cached_property
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, Self

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import get_local_path_or_none

from frostline.errors import RequestError

# MLflow's first use of a database is loud; it is told so before.
for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is down is told of at once

_NO_PART_OF_A_URI = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""Where a query begins, and what stands for another character."""

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
        """The URI with the default filled in, absolute, so that it means the same from any directory.

        Raises:
            RequestError: The working folder has a name that means something else in a URI.
        """
        if self.uri:
            return self.uri
        if unfit := _NO_PART_OF_A_URI.search(str(Path.cwd())):
            raise RequestError(
                f"tracking.uri: the path {Path.cwd()} holds '{unfit.group()}', which means something else in a "
                "database's address; work in another folder, or name a database elsewhere, as "
                "tracking.uri=sqlite:////folder/runs.db"
            )
        return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


@dataclass(frozen=True, kw_only=True)
class Used:
    """A dataset that a run has used.

    Attributes:
        name: Its name.
        digest: A hash of its content; MLflow keeps 36 characters.
        source: Where it came from.
        profile: Counts.
    """

    name: str
    digest: str
    source: str
    profile: Mapping[str, Any]

    @property
    def entity(self) -> Dataset:
        """The same in MLflow's words."""
        source, profile = json.dumps({"uri": self.source}), json.dumps(self.profile)
        return Dataset(name=self.name, digest=self.digest[:36], source_type="local", source=source, profile=profile)


@dataclass(kw_only=True)
class RunRecord:
    """The open record of one run; a context manager that closes it.

    Attributes:
        client: The connection to the store that it is in.
        experiment_id: The experiment that it is in.
        run_id: The run.
        logged: By metric, the step up to which nothing is logged again.
        taken_over: The last step of what was taken over from another run; -1 where nothing was.
    """

    client: MlflowClient
    experiment_id: str
    run_id: str
    logged: dict[str, int] = field(default_factory=dict)
    taken_over: int = -1
    _metrics: list[Metric] = field(default_factory=list)

    @classmethod
    def new(
        cls, client: MlflowClient, experiment_id: str, name: str, *, tags: Mapping[str, str], parent: str | None = None
    ) -> Self:
        """Open the record of a new run, a child of `parent` where that is given."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        origin = {"mlflow.source.name": "frostline", **_process()}
        run = client.create_run(
            experiment_id,
            run_name=name,
            tags={**{_tag(key): value for key, value in tags.items()}, **nested, **origin},
        )
        return cls(client=client, experiment_id=experiment_id, run_id=run.info.run_id)

    @classmethod
    def reopened(cls, client: MlflowClient, experiment_id: str, run_id: str) -> Self:
        """Open the record of an existing run again."""
        client.update_run(run_id, status="RUNNING")
        record = cls(client=client, experiment_id=experiment_id, run_id=run_id)
        record.tags(_process())
        return record

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
        self.client.set_terminated(self.run_id, status)

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; one that is too long for MLflow is cut and marked, and stands whole in config.yaml."""
        entries = [Param(key, _fitting(masked(str(value)))) for key, value in params.items()]
        for first in range(0, len(entries), 100):
            self.client.log_batch(self.run_id, params=entries[first : first + 100])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, under `frostline.` where a name has no prefix."""
        entries = [RunTag(_tag(key), value) for key, value in tags.items()]
        self.client.log_batch(self.run_id, tags=entries)

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
        self.flush()  # no checkpoint of this run holds it

    def flush(self) -> None:
        """Write the metrics gathered so far."""
        entries, self._metrics = self._metrics, []
        for first in range(0, len(entries), 1000):
            self.client.log_batch(self.run_id, metrics=entries[first : first + 1000])

    def text(self, name: str, text: str) -> None:
        """Keep a text as an artifact."""
        with self.artifact(name) as path:
            path.write_text(masked(text))

    def json(self, name: str, value: Any) -> None:
        """Keep plain data as an artifact."""
        self.text(name, json.dumps(value, indent=2) + "\n")

    @contextmanager
    def artifact(self, name: str) -> Iterator[Path]:
        """Give a path to write an artifact to; it is kept under `name`, whole, once the block ends.

        Where the artifacts lie on this machine, the path is beside them, so that nothing is copied.
        """
        with tempfile.TemporaryDirectory(dir=self._folder and self._folder.parent) as folder:
            path = Path(folder) / Path(name).name
            yield path
            self._keep(path, Path(name))

    def _keep(self, file: Path, name: Path) -> None:
        if self._folder is None or ".." in name.parts:  # which MLflow refuses
            parent = str(name.parent)
            self.client.log_artifact(self.run_id, str(file), None if parent == "." else parent)
            return
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)

    @cached_property
    def _folder(self) -> Path | None:
        """Where the run's artifacts lie, if that is on this machine."""
        folder = artifacts_here(self.client, self.run_id)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def datasets(self, used: Mapping[str, Used]) -> None:
        """Log datasets as inputs of the run, by what each was used for: train, val or test."""
        inputs = [DatasetInput(each.entity, tags=[InputTag("mlflow.data.context", of)]) for of, each in used.items()]
        with alone(str(self.client.tracking_uri)):
            self.client.log_inputs(self.run_id, datasets=inputs)


def artifacts_here(client: MlflowClient, run_id: str) -> Path | None:
    """Return where a run's artifacts lie, or None where that is another machine."""
    place = get_local_path_or_none(client.get_run(run_id).info.artifact_uri)
    return None if place is None else Path(place)


def _tag(key: str) -> str:
    """Return a tag's whole name: ours stand under `frostline.`, MLflow's own keep theirs."""
    return key if "." in key else f"frostline.{key}"


def _process() -> dict[str, str]:
    """Return the tags by which a record whose process has died is known."""
    return {"frostline.host": socket.gethostname(), "frostline.pid": str(os.getpid())}


def masked(text: str) -> str:
    """Hide the user name and password of every URI in a text."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def _fitting(value: str) -> str:
    mark = " ... (whole in config.yaml)"
    return value if len(value) <= LONGEST_PARAM else value[: LONGEST_PARAM - len(mark)] + mark


def alone(uri: str) -> FileLock:
    """Let one process of a user at a time do what MLflow does without looking around: make tables, and datasets."""
    name = hashlib.sha256(f"{_user()} {uri}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"frostline-{name}.lock")


def _user() -> str:
    """Return who runs this: by number where the system has numbers, since a container's user may have no name."""
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
