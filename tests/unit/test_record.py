"""Records: opened, filled, closed whatever happens; nothing cut, nothing secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workplace import database_in

from frostline.errors import RequestError
from frostline.record import LONGEST_PARAM, RunRecord, Store, Tracking, masked


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.open(Tracking(uri=f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"), "tests")


@pytest.mark.slow
def test_several_processes_may_open_one_new_store_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"from frostline.record import Store, Tracking; print(Store.open(Tracking(uri={uri!r}), 'x').experiment_id)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate(timeout=120)[0] for process in started}) == 1
    assert [process.returncode for process in started] == [0, 0, 0]


def status(record: RunRecord) -> str:
    return record.store.run(record.run_id).info.status


def test_a_run_that_ends_well_is_finished_and_holds_what_it_was_given(store: Store) -> None:
    with store.record("one", tags={"phase": "finetune", "seed": "0"}) as record:
        record.params({"optimizer.lr": 0.1, "freeze.stages": ["stem"]})
        record.metrics({"val/loss": 2.0}, step=1)
        record.metrics({"val/loss": 1.0}, step=2)
        record.json("data.json", {"classes": ["a"]})
    run = store.run(record.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optimizer.lr": "0.1", "freeze.stages": "['stem']"}
    assert [m.value for m in store.client.get_metric_history(record.run_id, "val/loss")] == [2.0, 1.0]
    assert run.data.tags["frostline.phase"] == "finetune"
    assert '"classes"' in store.read(record.run_id, "data.json")


def test_a_run_that_fails_is_failed_and_keeps_its_traceback(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.record("two", tags={}) as record:
        record.metrics({"train/loss": 3.0}, step=5)
        _ = 1 / 0
    assert status(record) == "FAILED"
    assert "ZeroDivisionError: division by zero" in store.read(record.run_id, "traceback.txt")
    assert store.run(record.run_id).data.metrics == {"train/loss": 3.0}


def test_a_run_that_a_person_interrupts_is_killed(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.record("three", tags={}) as record:
        raise KeyboardInterrupt
    assert status(record) == "KILLED"


def test_a_long_parameter_is_cut_and_marked_never_refused(store: Store) -> None:
    with store.record("four", tags={}) as record:
        record.params({"long": "x" * (LONGEST_PARAM + 1), "fits": "y" * LONGEST_PARAM})
    params = store.run(record.run_id).data.params
    assert params["fits"] == "y" * LONGEST_PARAM
    assert len(params["long"]) == LONGEST_PARAM
    assert params["long"].endswith("x ... (whole in config.yaml)")


def test_children_are_found_by_their_tags_and_know_their_parent(store: Store) -> None:
    with store.record("study", tags={"phase": "study", "study": "s"}) as parent:
        with store.record("child", tags={"signature": "abc", "arm": "full"}, parent=parent.run_id) as child:
            assert store.finished("abc") is None
    found = store.finished("abc")
    assert found is not None
    assert found.info.run_id == child.run_id
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert [run.info.run_id for run in store.runs(phase="study", study="s")] == [parent.run_id]


def test_a_reopened_run_keeps_its_id(store: Store) -> None:
    with store.record("five", tags={}) as record:
        pass
    with store.reopen(record.run_id) as again:
        assert status(record) == "RUNNING"
    assert again.run_id == record.run_id
    assert status(record) == "FINISHED"


def test_a_run_whose_process_is_gone_is_killed_and_a_living_one_is_not(store: Store) -> None:
    dead, living = store.record("dead", tags={}), store.record("living", tags={})
    store.client.set_tag(dead.run_id, "frostline.pid", "999999999")
    store.bury_the_dead()
    assert (status(dead), status(living)) == ("KILLED", "RUNNING")
    living.close("FINISHED")


def test_a_store_without_the_experiment_says_so(store: Store, tmp_path: Path) -> None:
    uri = store.client.tracking_uri
    with pytest.raises(RequestError, match="has no experiment 'other'; run a study first"):
        Store.open(Tracking(uri=uri), "other", create=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("tracking.uri=https://token@host", "tracking.uri=https://***@host"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_names_and_passwords_in_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


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


def test_each_split_is_an_input_of_its_own(store: Store) -> None:
    with store.record("inputs", tags={}) as record:
        for digest, split in (("a" * 64, "train"), ("b" * 64, "val")):
            record.dataset(name="digits", digest=digest, source="here", context=split, profile={"examples": 3})
    inputs = store.run(record.run_id).inputs.dataset_inputs
    assert {(i.tags[0].value, i.dataset.digest) for i in inputs} == {("train", "a" * 36), ("val", "b" * 36)}


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
