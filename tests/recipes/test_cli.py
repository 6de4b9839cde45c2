"""The command line as people and scripts use it: what it prints, records and exits with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from workplace import FOREIGN, REPOSITORY, TINY, Workplace

from frostline.config.vocabulary import groups, options
from frostline.modules import Training
from frostline.record import LONGEST_PARAM

pytestmark = FOREIGN
LAST_LINE = r"run [0-9a-f]{32} FINISHED test/accuracy=\d\.\d{4}"


def start(*arguments: str) -> list[str]:
    """Return the command of a process of its own, which hears Ctrl-C also where the tests run in the background."""
    code = "import signal; signal.signal(2, signal.default_int_handler); from frostline.cli import main; main()"
    return [sys.executable, "-c", code, *arguments]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "COMP_LINE")}
    return kept | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("verb", ["finetune", "plan"])
def test_steps_that_are_to_be_deterministic_do_not_fill_new_memory_first(
    verb: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan times steps as a run takes them."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before, filled = Training.training_step, []

    def noticing(self: Training, batch: object, batch_idx: int) -> object:
        assert torch.are_deterministic_algorithms_enabled()
        filled.append(bool(torch.empty(100_000).isnan().all()))
        return before(self, batch, batch_idx)

    monkeypatch.setattr(Training, "training_step", noticing)
    said = workplace.frostline(verb, *TINY)
    assert said.code == 0, said.err
    assert filled
    assert not any(filled)


# Weights go from a run to the next


def test_pretrained_weights_start_fine_tuning_by_run_id_and_by_file(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    file = workplace.store.fetch(source, "weights.safetensors")
    said = [
        workplace.frostline("finetune", *TINY, "data.digits=[3,4]", f"init_from={where}") for where in (source, file)
    ]
    for each in said:
        assert each.code == 0, each.err
        assert each.out.splitlines()[:3] == [
            "  ~ linear.bias  (3,) in the weights, (2,) in the network",
            "  ~ linear.weight  (3, 64) in the weights, (2, 64) in the network",
            "carried 100.0 % of the parameters outside the head",
        ]
        assert re.fullmatch(LAST_LINE, each.out.splitlines()[-1])
    by_id, by_file = (workplace.artifact(each.run_id, "predictions.csv") for each in said)
    assert by_id == by_file
    parents = [run.data.tags["frostline.parent_weights"] for run in workplace.runs(phase="finetune")]
    assert parents == [str(file), source]
    assert "carried 100.0 %" in workplace.artifact(said[0].run_id, "carried.txt")


def test_a_head_that_fits_is_carried_and_no_epochs_score_the_carried_weights_t12(workplace: Workplace) -> None:
    same = ("data.digits=[0,1,2]", "data.shots=10", "optimizer.lr=0.05")
    source = workplace.train("pretrain", *same, "trainer.max_epochs=3")
    scored = workplace.train("finetune", *same, f"init_from={source}", "trainer.max_epochs=0", "freeze=head")
    before, after = workplace.store.run(source), workplace.store.run(scored)
    tests = {name for name in before.data.metrics if name.startswith("test/")}
    assert tests >= {"test/accuracy", "test/loss"}
    assert {n: before.data.metrics[n] for n in tests} == {n: after.data.metrics[n] for n in tests}
    assert before.data.metrics["test/accuracy"] > 0.5
    assert workplace.artifact(source, "predictions.csv") == workplace.artifact(scored, "predictions.csv")
    assert after.data.metrics["cost/train_flops"] == 0
    assert "train/loss" not in after.data.metrics


def test_a_run_with_adapters_is_planned_trained_and_carried_on_as_a_plain_network(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    asked = ("data.digits=[3,4]", f"init_from={source}", "freeze=lora", "freeze.rank=2")
    planned = workplace.frostline("plan", *TINY, *asked)
    assert planned.code == 0, planned.err
    assert re.search(r"^stem +conv1.* adapter +", planned.out, re.MULTILINE)
    run_id = workplace.train("finetune", *asked)
    assert workplace.store.run(run_id).data.metrics["audit/frozen_intact"] == 1
    files = [workplace.store.fetch(run_id, f"{name}.safetensors") for name in ("delta", "weights")]
    assert 2 * files[0].stat().st_size < files[1].stat().st_size
    said = workplace.frostline("finetune", *TINY, "data.digits=[3,4]", f"init_from={run_id}", "trainer.max_epochs=0")
    assert said.out.splitlines()[0] == "carried 100.0 % of the parameters outside the head"
    before, after = (workplace.store.run(run).data.metrics["test/accuracy"] for run in (run_id, said.run_id))
    assert before == after


# What a run leaves in MLflow


def noted(folder: Path) -> str:
    """Write an objective of one's own that takes a long argument; return its `_target_`."""
    (folder / "noted.py").write_text(
        "from frostline.objectives.classification import Classification\n"
        "class Noted(Classification):\n"
        "    def __init__(self, *, note: str) -> None:\n"
        "        super().__init__()\n"
    )
    return "noted.Noted"


def test_a_run_leaves_in_mlflow_all_that_the_contract_names(workplace: Workplace) -> None:
    own = f"~objective.loss objective._target_={noted(workplace.folder)} objective.note={'long' * 2000}".split()
    source = workplace.train("pretrain", "data.digits=[0,1]")
    run_id = workplace.train("finetune", "data.digits=[2,3]", "freeze=head", "seed=3", f"init_from={source}", *own)
    run = workplace.store.run(run_id)
    assert run.info.status == "FINISHED"
    tags = {name.removeprefix("frostline."): value for name, value in run.data.tags.items()}
    assert {name: tags[name] for name in ("phase", "freeze", "arm", "seed", "parent_weights")} == {
        "phase": "finetune",
        "freeze": "head",
        "arm": "head",
        "seed": "3",
        "parent_weights": source,
    }
    assert re.fullmatch(r"[0-9a-f]{16}", tags["signature"])
    assert re.fullmatch(r"[0-9a-f]{32}", tags["pairing"])
    assert set(run.data.metrics) >= {
        *("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy", "audit/frozen_intact"),
        *("cost/wall_s", "cost/step_ms", "cost/train_flops", "cost/peak_memory_mb", "cost/trainable_params"),
    }
    assert run.data.metrics["audit/frozen_intact"] == 1
    assert run.data.metrics["cost/trainable_params"] == 64 * 2 + 2
    assert artifacts(workplace, run_id) == {
        *("config.yaml", "plan.txt", "plan.png", "environment.txt", "command.txt", "git.diff", "data.json"),
        *(
            "audit.json",
            "computed_again.json",
            "carried.txt",
            "predictions.csv",
            "weights.safetensors",
            "delta.safetensors",
        ),
        "checkpoints/last.ckpt",
        *("val_confusion.csv", "test_confusion.csv"),
    }
    sizes = {i.tags[0].value: json.loads(i.dataset.profile)["examples"] for i in run.inputs.dataset_inputs}
    assert sizes == {"train": 4, "val": 8, "test": 54}
    cut = run.data.params["objective.note"]
    assert len(cut) == LONGEST_PARAM
    assert cut.endswith(" ... (whole in config.yaml)")
    config = yaml.safe_load(workplace.artifact(run_id, "config.yaml"))
    assert config["objective"]["note"] == "long" * 2000
    assert config["freeze"] == {
        "_target_": "frostline.freeze.head.Head",
        "norm_affine": "follow",
        "norm_stats": "follow",
    }, "the defaults that no YAML lists are on the record"
    assert run.data.params["freeze.norm_stats"] == "follow"
    data = json.loads(workplace.artifact(run_id, "data.json"))
    assert data["fingerprint"] == tags["data"]
    digests = {i.tags[0].value: i.dataset.digest for i in run.inputs.dataset_inputs}
    assert digests == {split: profile["drawn"][:36] for split, profile in data["splits"].items()}
    predictions = workplace.artifact(run_id, "predictions.csv").splitlines()
    assert predictions[0] == "id,place,target,prediction,confidence"
    assert len(predictions) == 55
    right = [row.split(",")[2] == row.split(",")[3] for row in predictions[1:]]
    assert sum(right) / 54 == pytest.approx(run.data.metrics["test/accuracy"])
    assert not (workplace.folder / "outputs").exists()


def artifacts(workplace: Workplace, run_id: str) -> set[str]:
    root = workplace.folder / "mlruns" / run_id / "artifacts"
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_same_command_gives_the_same_predictions_whatever_the_number_of_workers(
    workplace: Workplace, tmp_path: Path
) -> None:
    command = ("finetune", "data.digits=[3,4]", "data.augment=true", "trainer.max_epochs=2", "freeze=gradual", "seed=0")
    found = []
    for name, more in {"first": (), "second": (), "third": ("data.num_workers=2",)}.items():
        workplace.enter(tmp_path / name)
        run_id = workplace.train(*command, *more)
        run = workplace.store.run(run_id)
        tests = {key: value for key, value in run.data.metrics.items() if key.startswith(("test/", "val/"))}
        identity = {key: run.data.tags[f"frostline.{key}"] for key in ("signature", "pairing", "data")}
        found.append((workplace.artifact(run_id, "predictions.csv"), tests, identity))
    assert found[0] == found[1] == found[2]
    workplace.enter(tmp_path / "other")
    other = workplace.train(*command[:-1], "seed=1")
    assert workplace.artifact(other, "predictions.csv") != found[0][0]


def test_a_key_of_the_environment_points_to_another_store(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    workplace.enter(tmp_path / "elsewhere")
    workplace.enter(tmp_path / "here")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = workplace.train("finetune", "data.digits=[3,4]")
    assert workplace.runs() == []
    workplace.enter(tmp_path / "elsewhere")
    assert [run.info.run_id for run in workplace.runs()] == [run_id]
    assert os.environ["MLFLOW_TRACKING_URI"] == uri


# plan, -m, list, completion


def test_plan_prints_what_the_run_records_and_trains_nothing(workplace: Workplace) -> None:
    said = workplace.frostline("plan", *TINY, "trainer.max_epochs=2", "data.digits=[3,4]", "freeze=lp_ft")
    assert said.code == 0, said.err
    assert said.out.startswith("epoch 01\nstem  .#\nbody1 .#\nbody2 .#\nbody3 .#\nhead  ##\n")
    assert workplace.runs() == []
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["mlflow.db"]
    run_id = workplace.train("finetune", "trainer.max_epochs=2", "data.digits=[3,4]", "freeze=lp_ft")
    assert said.out.startswith(workplace.artifact(run_id, "plan.txt"))


def test_a_sweep_runs_every_combination(workplace: Workplace) -> None:
    said = workplace.frostline("finetune", "-m", *TINY, "data.digits=[3,4]", "freeze=full,head", "seed=0,1")
    assert said.code == 0, said.err
    assert len([line for line in said.out.splitlines() if re.fullmatch(LAST_LINE, line)]) == 4
    tags = {(r.data.tags["frostline.freeze"], r.data.tags["frostline.seed"]) for r in workplace.runs()}
    assert tags == {("full", "0"), ("full", "1"), ("head", "0"), ("head", "1")}
    assert len({r.data.params["tracking.uri"] for r in workplace.runs()}) == 1
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["mlflow.db", "mlruns"]


def test_one_wrong_combination_of_a_sweep_stops_it_before_any_runs(workplace: Workplace) -> None:
    said = workplace.frostline(
        "finetune", "-m", *TINY, "data.digits=[3,4]", "freeze=head,haed", "optimizer.lr=0.1,fast"
    )
    assert (said.code, said.out) == (2, "")
    problem, several, *wrong = said.err.splitlines()
    assert (problem, several) == ("2 problem(s) in the config:", "  optimizer.lr: should be a valid number, got 'fast'")
    assert wrong[0].startswith("  freeze=haed: no such option; did you mean 'head'?")
    assert workplace.runs() == []


def test_a_group_given_twice_in_a_sweep_is_refused(workplace: Workplace) -> None:
    said = workplace.frostline("finetune", "-m", *TINY, "data.digits=[3,4]", "freeze=head", "freeze=full")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[-1].strip() == "freeze: given twice; a sweep tries several as freeze=A,B"
    assert workplace.runs() == []


def test_what_fails_each_run_of_a_sweep_is_told_once(workplace: Workplace) -> None:
    own = ("data.digits=[3,4]", "seed=0,1", "init_from=none.pth")
    said = workplace.frostline("finetune", "-m", *TINY, *own)
    assert said.code == 2
    assert said.err.count("there is no file 'none.pth'") == 1
    assert "seed=0, seed=1: init_from: there is no file 'none.pth'" in said.err


def test_list_names_every_option_with_a_sentence(workplace: Workplace) -> None:
    everything = workplace.frostline("list").out
    assert [name for name in groups() if any(f"{name}={o}" not in everything for o in options(name))] == []
    said = workplace.frostline("list", "freeze").out
    assert re.search("freeze=head +Train the head alone", said)
    assert "model=" not in said


def test_completion_knows_verbs_groups_and_options(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        said = workplace.frostline("-sc", "query=bash")
        assert said.code == 0, said.err
        return said.out.split()

    assert {"finetune", "plan", "study"} <= set(complete("frostline "))
    assert complete("frostline finetune freeze=gr") == ["freeze=gradual"]
    assert complete("frostline plan optimizer=ad") == ["optimizer=adamw"]
    assert "freeze=" in complete("frostline finetune fr")
    assert complete("frostline pretrain trainer.max_e") == ["trainer.max_epochs="]


@pytest.mark.parametrize("arguments", ["--help", "finetune --help", "study --help", "list --help"])
def test_help_answers_without_torch(arguments: str, tmp_path: Path) -> None:
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('imported', 'torch' in sys.modules))\n"
        "from frostline.cli import main\nmain()"
    )
    command = [sys.executable, "-c", script, *arguments.split()]
    said = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[-1] == "imported False"
    assert len(said.stdout.splitlines()) > 3


@pytest.mark.parametrize("verb", ["study", "plan"])
def test_what_is_wrong_with_the_arms_of_a_study_is_told_without_torch(verb: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    arms = {"full": ["freeze=full"], "head": ["freeze=haed"], "last": ["freeze=last_k", "freeze.kk=2"]}
    asked = {"question": "Which?", "arms": arms, "seeds": [0], "reference": "full"}
    asked["pretrain"] = {"one": ["modle=resnet20"], "other": ["optimzer=sgd"]}
    (tmp_path / "mine" / "study.yaml").write_text(json.dumps(asked))
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('imported', 'torch' in sys.modules))\n"
        "from frostline.cli import main\nmain()"
    )
    command = [sys.executable, "-c", script, verb, "mine"]
    said = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "imported False\n")
    for sentence in (
        "pre-training one: modle",
        "pre-training other: optimzer",
        "arm 'head': freeze",
        "arm 'last': freeze.kk",
    ):
        assert sentence in said.stderr


# What is wrong is said in a sentence, with exit code 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("fintune", "frostline: no verb 'fintune'; did you mean 'finetune'?"),
        ("list frieze", "list: no group 'frieze'; did you mean 'freeze'?"),
        ("study", "usage: frostline study experiments/digits [overrides]; `frostline --help` tells what it does"),
        ("compare", "usage: frostline compare experiments/digits [overrides]; `frostline --help` tells what it does"),
        ("study nowhere", "nowhere: holds no study.yaml; beside it, there are none"),
        ("compare nowhere", "study 'nowhere': MLflow has none of this name; it has none"),
        (
            "compare nowhere experiment_name=mine",
            "experiment_name: sqlite:///{cwd}/mlflow.db has no experiment 'mine'; "
            "run a study first, or point tracking.uri at the store that has it",
        ),
        ("resume 00000000000000000000000000000000 fork=maybe", "fork: is true or false, not maybe"),
        (
            "finetune data.shots=0 optimizer.lr=fast",
            "2 problem(s) in the config:\n  data.shots: should be greater than 0, got 0\n"
            "  optimizer.lr: should be a valid number, got 'fast'",
        ),
        (
            "finetune freeze=only freeze.stages=[body9]",
            "1 problem(s) in the config:\n  freeze.stages: the network has no stage 'body9'; did you mean 'body3'?",
        ),
        (
            "finetune init_from=lost.pt",
            "init_from: there is no file 'lost.pt'; a run is named by its id, of 32 characters",
        ),
        (
            "finetune init_from=00000000000000000000000000000000",
            "run 00000000000000000000000000000000: sqlite:///{cwd}/mlflow.db has none of this id; "
            "is tracking.uri where it was logged?",
        ),
        (
            "finetune data=image_folder data.root=qqq init_from=lost.pt optimizer.lr=-1 trainer.max_epochs=-5 "
            "model=torchvision model.name=resnet51",
            "5 problem(s) in the config:\n  trainer.max_epochs: should be 0 or more, since a plan needs its length, "
            "got -5\n  optimizer: Invalid learning rate: -1\n  data.root=qqq: no such file or folder; '.' has no "
            "'qqq'\n  model.name: 'resnet51' is no classification network of torchvision; "
            "did you mean 'resnet50'?"
            "\n  init_from: there is no file 'lost.pt'; a run is named by its id, of 32 characters",
        ),
        (
            "finetune +trainer.logger=true",
            "trainer.logger: every run is logged to MLflow; choose where with tracking.uri",
        ),
        (
            "finetune optimizer.differentiable=true",
            "optimizer.differentiable: is for a gradient through the optimizer's own steps, which no run takes; "
            "leave it out",
        ),
        (
            "pretrain optimizer.foreach=true optimizer.fused=true",
            "optimizer: `fused` and `foreach` cannot be `True` together.",
        ),
        ("finetune data.digits=[3]", "data.digits=[3]: there is nothing to tell apart; choose at least two digits"),
    ],
)
def test_a_wrong_request_gets_its_sentence(arguments: str, sentence: str, workplace: Workplace) -> None:
    workplace.store  # noqa: B018 (creates the experiment)
    said = workplace.frostline(*arguments.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.strip().startswith(sentence.format(cwd=workplace.folder))
    assert workplace.runs() == []


@pytest.mark.parametrize("request_", ["compare nowhere", f"resume {'0' * 32}", f"wise_ft {'0' * 32}", "soup nowhere"])
def test_reading_a_store_that_is_not_there_does_not_create_it(request_: str, workplace: Workplace) -> None:
    lost = workplace.folder / "lost.db"
    said = workplace.frostline(*request_.split(), f"tracking.uri=sqlite:///{lost}")
    sentence = f"tracking.uri: there is no store at {lost}; is this the folder where it was made?"
    assert (said.code, said.err.strip(), lost.exists()) == (2, sentence, False)


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        ("tracking.uri=nonsense://user:secret@x", "tracking.uri: nonsense://***@x cannot be opened: "),
        ("tracking.uri=http://user:secret@127.0.0.1:9", "tracking.uri: http://***@127.0.0.1:9 does not answer: "),
        ("experiment_name=", "experiment_name: '' cannot be created: "),
    ],
)
def test_a_store_that_cannot_be_used_is_a_wrong_request(
    override: str, beginning: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = workplace.frostline("finetune", *TINY, override)
    assert said.code == 2
    assert said.err.startswith(beginning)
    assert "Traceback" not in said.err
    assert "secret" not in said.err


def test_a_new_head_that_would_never_train_is_refused(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    never = ("finetune", *TINY, "data.digits=[3,4]", f"init_from={source}", "freeze=only", "freeze.stages=[stem]")
    said = workplace.frostline(*never)
    assert said.code == 2
    assert said.err.strip() == (
        "freeze: the head (linear.bias, linear.weight) knows nothing of these classes and Only never trains it; "
        "add 'head' to freeze.stages, or choose a strategy that trains the head"
    )
    assert workplace.frostline(*never, "trainer.max_epochs=0").code == 0


def test_weights_of_another_network_and_cut_files_are_refused(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    said = workplace.frostline("finetune", *TINY, "model=resnet32", f"init_from={source}")
    assert said.code == 2
    assert said.err.startswith("The weights do not fit the network:\n  - layer1.3.bn1.bias  in the network only\n")
    assert re.search(r"carried 5\d\.\d % of the parameters outside the head, but 90.0 % must be; choose", said.err)
    whole = workplace.store.fetch(source, "weights.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    said = workplace.frostline("finetune", *TINY, "init_from=cut.safetensors")
    assert (said.code, said.err.strip()) == (
        2,
        f"init_from: cut.safetensors is truncated or not a file of weights ({len(whole) // 2} bytes); "
        "copy or download it again.",
    )


# What breaks while it runs: exit code 1, and the record tells


def test_an_error_in_training_fails_the_run_and_keeps_its_traceback(workplace: Workplace) -> None:
    Path("broken.py").write_text(
        "from frostline.objectives.classification import Classification\n"
        "class Broken(Classification):\n"
        "    def loss(self, outputs, batch):\n"
        "        raise ArithmeticError('the loss has no value')\n"
    )
    said = workplace.frostline("finetune", *TINY, "objective._target_=broken.Broken", "data.digits=[3,4]")
    assert said.code == 1
    assert "ArithmeticError: the loss has no value" in said.err
    (run,) = workplace.runs()
    assert run.info.status == "FAILED"
    assert "broken.py" in workplace.artifact(run.info.run_id, "traceback.txt")
    assert "weights.safetensors" not in artifacts(workplace, run.info.run_id)
    again = workplace.frostline("finetune", *TINY, "data.digits=[3,4]", f"init_from={run.info.run_id}")
    assert (again.code, again.err.strip()) == (
        2,
        f"run {run.info.run_id}: has no weights.safetensors; only a run that FINISHED has all its artifacts",
    )


def test_a_frozen_tensor_that_changes_fails_the_run(workplace: Workplace) -> None:
    Path("leaking.py").write_text(
        "from frostline.nn.cifar_resnet import CifarResNet\n"
        "def leak(network, inputs, output):\n"
        "    if network.training:\n"
        "        network.bn1.running_mean.add_(1)\n"
        "class Leaking(CifarResNet):\n"
        "    def network(self, num_classes):\n"
        "        network = super().network(num_classes)\n"
        "        network.register_forward_hook(leak)\n"
        "        return network\n"
    )
    said = workplace.frostline("finetune", *TINY, "model._target_=leaking.Leaking", "freeze=head", "data.digits=[3,4]")
    assert said.code == 1
    assert "1 frozen tensors changed in epochs 0: bn1.running_mean; the run cannot be believed" in said.err
    (run,) = workplace.runs()
    assert run.info.status == "FAILED"
    assert run.data.metrics["audit/frozen_intact"] == 0
    assert "test/accuracy" not in run.data.metrics
    assert json.loads(workplace.artifact(run.info.run_id, "audit.json"))[0]["changed"] == ["bn1.running_mean"]


def test_a_failing_job_of_a_sweep_lets_the_others_run(workplace: Workplace) -> None:
    Path("sometimes.py").write_text(
        "from frostline.objectives.classification import Classification\n"
        "class Sometimes(Classification):\n"
        "    def __init__(self, *, well: bool) -> None:\n"
        "        super().__init__()\n"
        "        self.well = well\n"
        "    def loss(self, outputs, batch):\n"
        "        return super().loss(outputs, batch) if self.well else 1 / 0\n"
    )
    own = ("~objective.loss", "objective._target_=sometimes.Sometimes", "objective.well=false,true")
    said = workplace.frostline("finetune", "-m", *TINY, "data.digits=[3,4]", *own)
    assert said.code == 1
    assert "1 of the sweep's runs failed:\nobjective.well=False: division by zero" in said.err
    assert said.err.startswith("objective.well=False:\n")
    assert re.fullmatch(LAST_LINE, said.out.splitlines()[-1])


# Interrupted: exit code 130, and the record is closed


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_run_is_killed_and_keeps_its_last_checkpoint(number: int, workplace: Workplace) -> None:
    endless = ("trainer.max_epochs=2000", "data.digits=[3,4]", "experiment_name=frostline")
    with subprocess.Popen(
        start("finetune", *TINY, *endless), cwd=workplace.folder, env=environment(), text=True, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for(lambda: list(workplace.folder.glob("outputs/*/last.ckpt")), process)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    (run,) = workplace.runs()
    assert error.strip().splitlines() == [
        "stopping after this step; once more to stop at once",
        f"interrupted; go on with: frostline resume {run.info.run_id}",
    ]
    assert run.info.status == "KILLED"
    kept = workplace.store.fetch(run.info.run_id, "checkpoints/last.ckpt")
    assert torch.load(kept, weights_only=True)["epoch"] >= 0
    assert "audit/frozen_intact" in run.data.metrics
    assert not (workplace.folder / "outputs").exists()


def wait_for(there: object, process: subprocess.Popen[str], seconds: float = 90) -> None:
    """Wait until something is there, while the process lives."""
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)


def test_a_working_folder_that_cannot_be_written_is_told_before_anything_is_recorded(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.train("pretrain")  # the store is there and open
    monkeypatch.setattr("os.access", lambda place, mode: False)  # root may write anywhere
    said = workplace.frostline("pretrain", *TINY, "seed=1")
    problem = f"{workplace.folder} cannot be written to, which a run does while it trains; work in another folder\n"
    assert (said.code, said.err) == (2, problem)
    assert len(workplace.runs()) == 1


@pytest.mark.parametrize("key", ["fast_dev_run=true", "max_steps=5", "overfit_batches=2"])
def test_a_run_that_no_plan_counts_is_refused(key: str, workplace: Workplace) -> None:
    said = workplace.frostline("finetune", *TINY, f"trainer.{key}")
    problem = f"trainer.{key.split('=')[0]}: a plan counts epochs and their steps; choose trainer.max_epochs and "
    assert (said.code, said.err) == (2, f"{problem}trainer.limit_train_batches instead\n")


def test_a_precision_that_exchanges_layers_is_refused(workplace: Workplace) -> None:
    said = workplace.frostline("finetune", *TINY, "trainer.precision=transformer-engine")
    problem = "would replace the layers that the plan speaks of; choose trainer.precision=bf16-mixed"
    assert (said.code, said.err) == (2, f"trainer.precision=transformer-engine: {problem}\n")


@pytest.mark.parametrize("asked", ["16", "16-mixed"])
def test_a_precision_that_lightning_would_exchange_on_a_processor_is_refused(asked: str, workplace: Workplace) -> None:
    said = workplace.frostline("finetune", *TINY, "trainer.accelerator=cpu", f"trainer.precision={asked}")
    problem = f"trainer.precision={asked}: is for a GPU; choose trainer.precision=bf16-mixed, or a machine with one\n"
    assert (said.code, said.err) == (2, problem)
