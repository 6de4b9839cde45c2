from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from frostline.config.compose import compose, compose_seeds
from frostline.config.overrides import expand_sweep, overrides_for_hydra
from frostline.config.vocabulary import conf_dir, groups, options
from frostline.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def problems(*overrides: str, verb: str = "finetune") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(verb, overrides)
    return caught.value.problems


def test_what_is_checked_is_resolved() -> None:
    cfg = compose("finetune", ["seed=3"])
    assert OmegaConf.to_container(cfg, resolve=False)["data"]["seed"] == 3
    assert "hydra" not in cfg


def test_an_argument_that_no_yaml_lists_needs_no_plus() -> None:
    cfg = compose("finetune", ["optimizer.nesterov=true", "+optimizer.dampening=0.0", "++data.batch_size=8"])
    assert (cfg.optimizer.nesterov, cfg.optimizer.dampening, cfg.data.batch_size) == (True, 0.0, 8)


def test_deletion() -> None:
    assert "momentum" not in compose("finetune", ["~optimizer.momentum"]).optimizer


@pytest.mark.parametrize("nothing", ["none", "null"])
def test_groups_that_may_stay_empty(nothing: str) -> None:
    cfg = compose("finetune", [f"regularizer={nothing}", f"stopping={nothing}"])
    assert cfg.regularizer is None
    assert cfg.stopping is None


def test_number_in_exponent_notation() -> None:
    assert compose("finetune", ["optimizer.lr=1e-3"]).optimizer.lr == 0.001


def test_plan_reads_what_finetune_reads() -> None:
    assert compose("plan", ["freeze=head"]) == compose("finetune", ["freeze=head"])


def test_pretrain_has_no_strategy() -> None:
    assert not {"freeze", "regularizer"} & set(compose("pretrain", []))


def test_tracking_uri_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert compose("finetune", []).tracking.uri == "http://localhost:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert compose("finetune", []).tracking.uri is None


def test_the_users_folder_adds_options(here: Path) -> None:
    write(here / "conf/freeze/slow.yaml", "_target_: frostline.freeze.gradual.Gradual\nevery: 5\n")
    assert compose("finetune", ["freeze=slow"]).freeze.every == 5
    assert "slow" in options("freeze")
    assert "gradual" in options("freeze")


def test_the_users_folder_wins(here: Path) -> None:
    write(here / "conf/optimizer/sgd.yaml", "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.5\n")
    assert dict(compose("finetune", []).optimizer) == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}


def test_mistakes_in_the_users_folder(here: Path) -> None:
    write(here / "conf/freeze/slow.yaml", "_target_: frostline.freeze.gradual.Gradual\nevry: 5\n")
    assert problems("freeze=slow") == ["freeze.evry: unknown to Gradual; did you mean 'every'?"]


def test_a_file_that_names_no_class(here: Path) -> None:
    write(here / "conf/freeze/slow.yaml", "every: 5\n")
    (sentence,) = problems("freeze=slow")
    assert sentence.startswith("freeze.every: choose a freeze first; options: ")


def test_yaml_that_cannot_be_read(here: Path) -> None:
    file = here / "conf/freeze/slow.yaml"
    write(file, "_target_: frostline.freeze.gradual.Gradual\nevery: [1\n")
    (sentence,) = problems("freeze=slow")
    assert sentence == f"{file}: line 3 is not valid YAML: expected ',' or ']', but got '<stream end>'"


def test_a_verb_of_the_users_own(here: Path) -> None:
    text = (conf_dir() / "finetune.yaml").read_text()
    write(here / "conf/finetune.yaml", text.replace("freeze: full", "freeze: had"))
    (sentence,) = problems()
    assert sentence.startswith("In 'finetune': Could not find 'freeze/had'")


def test_a_top_level_key_of_the_users_own(here: Path) -> None:
    write(here / "conf/finetune.yaml", (conf_dir() / "finetune.yaml").read_text() + "\nsed: 3\n")
    assert problems() == ["sed: unknown key; did you mean 'seed'?"]


def test_search_path_of_the_command_line(here: Path) -> None:
    write(here / "mine/freeze/slow.yaml", "_target_: frostline.freeze.gradual.Gradual\nevery: 7\n")
    assert compose("finetune", [f"hydra.searchpath=[file://{here}/mine]", "freeze=slow"]).freeze.every == 7


def test_inside_a_job_of_hydra() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert compose("finetune", ["seed=4"]).seed == 4
        assert GlobalHydra.instance().hydra is outer
    assert not GlobalHydra.instance().is_initialized()


def test_the_last_of_two_wins() -> None:
    cfg = compose("finetune", ["freeze=head", "seed=1", "freeze=gradual", "seed=2"])
    assert (cfg.freeze.every, cfg.seed) == (1, 2)


def test_what_is_below_a_wrong_option_is_not_judged() -> None:
    (sentence,) = problems("optimizer=adan", "optimizer.amsgrad=true")
    assert sentence == "optimizer=adan: no such option; did you mean 'adamw'? options: adamw, sgd"


def test_overrides_in_the_form_that_hydra_reads() -> None:
    given = ["a.b=1,2", "model=x", "~x.y", "+z.y=1", "++w.v=2", "hydra.run.dir=x", "seed=1,2", "stopping=null", "a=b=c"]
    assert overrides_for_hydra("finetune", given) == [
        "++a.b=1,2",
        "model=x",
        "~x.y",
        "+z.y=1",
        "++w.v=2",
        "hydra.run.dir=x",
        "seed=1,2",
        "~stopping",
        "a=b=c",
    ]


def test_sweep() -> None:
    jobs = expand_sweep(["model=resnet20", "optimizer.lr=0.1,0.2", "freeze=choice(head,full)", "seed=range(0,2)"])
    assert len(jobs) == 8
    assert jobs[0] == ["model=resnet20", "optimizer.lr=0.1", "freeze=head", "seed=0"]
    assert jobs[-1] == ["model=resnet20", "optimizer.lr=0.2", "freeze=full", "seed=1"]
    assert [compose("finetune", job).seed for job in jobs[:2]] == [0, 1]


def test_sweep_over_what_a_pattern_matches() -> None:
    assert expand_sweep(["model=glob(resnet*)"])[0] == ["model=resnet110"]


def test_sweep_is_cut() -> None:
    assert len(expand_sweep(["seed=range(0,100000)", "data.split_seed=range(0,100000)"])) == 200


def test_sweep_that_cannot_be_expanded() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr: an interval has no end of values; list those to try: 1,2,3"):
        expand_sweep(["optimizer.lr=interval(0,1)"])
    with pytest.raises(ConfigError, match="head: no override; write key=value"):
        expand_sweep(["head"])


def test_vocabulary() -> None:
    assert {"model", "data", "freeze"} < set(groups())
    assert options("optimizer") == ["adamw", "sgd"]
    assert options("nothing") == []


def test_seeds_are_composed_as_one_by_one() -> None:
    asked = ["data=digits", "freeze=head", "experiment_name=all-${seed}"]
    assert compose_seeds("finetune", asked, [0, 3, 5]) == {
        seed: compose("finetune", [*asked, f"seed={seed}"]) for seed in (0, 3, 5)
    }


def test_what_is_wrong_with_seeds_is_said_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_seeds("finetune", ["data=digits", "freeze=gradual", "freeze.evry=2"], [0, 1])
    assert caught.value.problems == ["freeze.evry: unknown to Gradual; did you mean 'every'?"]


@pytest.mark.parametrize(
    ("asked", "seeds", "sentence"),
    [
        ([], [0, -1], "seed: should be greater than or equal to 0, got -1"),
        (["data.shots=${seed}"], [2, 0], "data.shots: should be greater than 0, got 0"),
    ],
)
def test_every_seed_is_checked(asked: list[str], seeds: list[int], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_seeds("finetune", ["data=digits", "freeze=head", *asked], seeds)
    assert sentence in caught.value.problems
