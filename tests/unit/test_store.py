"""Stores: opened by many, searched, and what they do not have is told in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workplace import database_in

from frostline.errors import RequestError
from frostline.record import Tracking
from frostline.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.open(Tracking(uri=f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"), "tests")


@pytest.mark.slow
def test_several_processes_may_open_one_new_store_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"""
from frostline.record import Tracking
from frostline.store import Store
print(Store.open(Tracking(uri={uri!r}), 'x').experiment_id)
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in started}) == 1
    assert [process.returncode for process in started] == [0, 0, 0]


def test_children_are_found_by_their_tags_and_know_their_parent(store: Store) -> None:
    with store.record("study", tags={"phase": "study", "study": "s"}) as parent:
        with store.record("child", tags={"signature": "abc", "arm": "full"}, parent=parent.run_id) as child:
            assert store.finished("abc") is None
    found = store.finished("abc")
    assert found is not None
    assert found.info.run_id == child.run_id
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert [run.info.run_id for run in store.runs(phase="study", study="s")] == [parent.run_id]


def test_a_run_whose_process_is_gone_is_killed_and_a_living_one_is_not(store: Store) -> None:
    dead, living = store.record("dead", tags={}), store.record("living", tags={})
    store.client.set_tag(dead.run_id, "frostline.pid", "999999999")
    store.bury_the_dead()
    assert [store.run(each.run_id).info.status for each in (dead, living)] == ["KILLED", "RUNNING"]
    living.close("FINISHED")


def test_a_store_without_the_experiment_says_so(store: Store, tmp_path: Path) -> None:
    uri = store.client.tracking_uri
    with pytest.raises(RequestError, match="has no experiment 'other'; run a study first"):
        Store.open(Tracking(uri=uri), "other", create=False)


def test_two_stores_are_kept_apart_and_the_environment_is_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "the user's own")
    other = Store.open(Tracking(uri=f"sqlite:///{database_in(tmp_path)}"), "tests")
    with other.record("one", tags={}) as there:
        there.text("note.txt", "there")
    again = Store.open(Tracking(uri=store.client.tracking_uri), "tests")
    with again.record("two", tags={}) as here:
        here.text("note.txt", "here")
    assert again.read(here.run_id, "note.txt") == "here"
    assert Store.open(Tracking(uri=other.client.tracking_uri), "tests").read(there.run_id, "note.txt") == "there"
    assert (tmp_path / "mlruns" / there.run_id).is_dir()
    assert not (tmp_path / "mlruns" / here.run_id).exists()
    assert os.environ["MLFLOW_TRACKING_URI"] == "the user's own"


def test_what_a_run_has_not_is_told(store: Store) -> None:
    with store.record("bare", tags={}) as record:
        pass
    with pytest.raises(RequestError) as caught:
        store.fetch(record.run_id, "weights.safetensors")
    sentence = "has no weights.safetensors; only a run that FINISHED has all its artifacts"
    assert str(caught.value) == f"run {record.run_id}: {sentence}"
    with pytest.raises(RequestError) as caught:
        store.fetch("0" * 32, "weights.safetensors")
    where = f"{store.client.tracking_uri} has none of this id; is tracking.uri where it was logged?"
    assert str(caught.value) == f"run {'0' * 32}: {where}"


@pytest.mark.parametrize(
    ("uri", "name", "beginning"),
    [
        ("nonsense://joe:secret@x", "tests", "tracking.uri: nonsense://***@x cannot be opened: "),
        (None, "", "experiment_name: '' cannot be created: "),
    ],
)
def test_a_store_that_cannot_be_used_says_why(uri: str | None, name: str, beginning: str, store: Store) -> None:
    with pytest.raises(RequestError) as caught:
        Store.open(Tracking(uri=uri or store.client.tracking_uri), name)
    assert str(caught.value).startswith(beginning)
    assert "secret" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)  # root may write anywhere
    with pytest.raises(RequestError) as caught:
        Store.open(Tracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), "tests")
    problem = f"tracking.uri: {tmp_path} cannot be written to; work in a folder of your own, or name another store"
    assert str(caught.value) == problem


def test_a_run_has_its_files_and_folders_and_no_others(tmp_path: Path) -> None:
    store = Store.open(Tracking(uri=f"sqlite:///{database_in(tmp_path)}"), "tests")
    with store.record("one", tags={}) as record:
        record.text("data.json", "{}")
        record.text("checkpoints/last.txt", "last")
    names = ("data.json", "checkpoints", "checkpoints/last.txt", "data", "checkpoints/best.txt", "other/last.txt")
    assert [store.has(record.run_id, name) for name in names] == [True] * 3 + [False] * 3
