"""Records: opened, filled, closed whatever happens; nothing cut, nothing secret."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from workplace import database_in

from frostline.errors import RequestError
from frostline.record import LONGEST_PARAM, RunRecord, Tracking, Used, artifacts_here, masked
from frostline.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store.open(Tracking(uri=f"sqlite:///{database_in(tmp_path_factory.mktemp('store'))}"), "tests")


def status(store: Store, record: RunRecord) -> str:
    return store.run(record.run_id).info.status


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
    assert status(store, record) == "FAILED"
    assert "ZeroDivisionError: division by zero" in store.read(record.run_id, "traceback.txt")
    assert store.run(record.run_id).data.metrics == {"train/loss": 3.0}


def test_a_run_that_a_person_interrupts_is_killed(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), store.record("three", tags={}) as record:
        raise KeyboardInterrupt
    assert status(store, record) == "KILLED"


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("name", ["weights.bin", "checkpoints/last.ckpt"])
def test_an_artifact_lies_where_mlflow_would_put_it(
    name: str, elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder, 100 % #1 ?"
    folder.mkdir()
    monkeypatch.chdir(folder)
    store = Store.open(Tracking(uri=f"sqlite:///{database_in(tmp_path)}"), "tests")
    if elsewhere:
        for module in ("record", "store"):
            monkeypatch.setattr(f"frostline.{module}.artifacts_here", lambda *_: None)
    for content in ("first", "second"):
        with store.record("six", tags={}) as record:
            with record.artifact(name) as path:
                path.write_text(content)
        assert store.read(record.run_id, name) == content
        assert [file.name for file in store.fetch(record.run_id, name).parent.iterdir()] == [Path(name).name]


def test_an_artifact_is_replaced_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(path: Path, text: str) -> None:
        path.write_bytes(b"hal")
        raise OSError("No space left on device")

    with store.record("seven", tags={}) as record:
        record.text("note.txt", "whole")
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(Path, "write_text", breaks)
            record.text("note.txt", "other")
        assert store.read(record.run_id, "note.txt") == "whole"
        folder = store.fetch(record.run_id, "note.txt").parent
        assert folder == artifacts_here(store.client, record.run_id)
        assert [file.name for file in folder.iterdir()] == ["note.txt"]
        assert [file.name for file in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(("name", "sign"), [("a%20b", "%20"), ("what?", "?")])
def test_a_folder_that_no_address_can_name_is_refused(
    name: str, sign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / name).mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError) as caught:
        _ = Tracking().resolved
    assert str(caught.value) == (
        f"tracking.uri: the path {folder} holds '{sign}', which means something else in a database's address; work in "
        "another folder, or name a database elsewhere, as tracking.uri=sqlite:////folder/runs.db"
    )
    assert Tracking(uri="sqlite:////elsewhere/runs.db").resolved == "sqlite:////elsewhere/runs.db"


def test_nothing_is_kept_outside_a_runs_artifacts(store: Store) -> None:
    with store.record("eight", tags={}) as record:
        with pytest.raises(MlflowException, match="Invalid artifact path"):
            record.text("failed/../../note.txt", "out")


def test_a_long_parameter_is_cut_and_marked_never_refused(store: Store) -> None:
    with store.record("four", tags={}) as record:
        record.params({"long": "x" * (LONGEST_PARAM + 1), "fits": "y" * LONGEST_PARAM})
    params = store.run(record.run_id).data.params
    assert params["fits"] == "y" * LONGEST_PARAM
    assert len(params["long"]) == LONGEST_PARAM
    assert params["long"].endswith("x ... (whole in config.yaml)")


def test_a_reopened_run_keeps_its_id(store: Store) -> None:
    with store.record("five", tags={}) as record:
        pass
    with store.reopen(record.run_id) as again:
        assert status(store, record) == "RUNNING"
    assert again.run_id == record.run_id
    assert status(store, record) == "FINISHED"


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


def test_each_split_is_an_input_of_its_own(store: Store) -> None:
    with store.record("inputs", tags={}) as record:
        digests = {"train": "a" * 64, "val": "b" * 64}
        record.datasets(
            {
                of: Used(name="digits", digest=each, source="here", profile={"examples": 3})
                for of, each in digests.items()
            }
        )
    inputs = store.run(record.run_id).inputs.dataset_inputs
    assert {(i.tags[0].value, i.dataset.digest) for i in inputs} == {("train", "a" * 36), ("val", "b" * 36)}
