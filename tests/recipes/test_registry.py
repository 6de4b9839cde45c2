"""Weights that MLflow's model registry holds."""

from workplace import FOREIGN, TINY, Workplace

pytestmark = FOREIGN


def test_a_registered_version_is_carried_by_number_and_by_alias(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    client = workplace.store.client
    client.create_registered_model("reader")
    uri = client.get_run(source).info.artifact_uri
    client.create_model_version("reader", f"{uri}/weights.safetensors", run_id=source)
    client.set_registered_model_alias("reader", "best", "1")
    for asked in ("models:/reader/1", "models:/reader@best"):
        run_id = workplace.train("finetune", "data.digits=[3,4]", f"init_from={asked}")
        assert "carried 100.0 %" in workplace.artifact(run_id, "carried.txt")
        assert client.get_run(run_id).data.tags["frostline.parent_weights"] == asked


def test_what_the_registry_lacks_is_told_with_what_it_has(workplace: Workplace) -> None:
    said = workplace.frostline("finetune", "init_from=models:/reader/1")
    assert (said.code, said.err) == (
        2,
        "init_from=models:/reader/1: the registry has no model 'reader'; it is empty\n",
    )
    source = workplace.train("pretrain", "data.digits=[0,1,2]")
    client = workplace.store.client
    client.create_registered_model("reader")
    client.create_model_version("reader", f"{client.get_run(source).info.artifact_uri}/weights.safetensors")
    said = workplace.frostline("finetune", "init_from=models:/raeder/1")
    assert said.err == "init_from=models:/raeder/1: the registry has no model 'raeder'; did you mean 'reader'?\n"
    said = workplace.frostline("finetune", "init_from=models:/reader/7")
    assert said.err == ("init_from=models:/reader/7: 'reader' has no such version; there are /1\n")
    said = workplace.frostline("finetune", "init_from=models:/reader")
    assert said.err == (
        "init_from=models:/reader: a model of the registry is models:/NAME/VERSION or models:/NAME@ALIAS\n"
    )


def test_a_head_keeps_its_classes_from_run_to_run(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[1,2]")
    asked = ("finetune", *TINY, f"init_from={source}", "trainer.max_epochs=0")
    said = workplace.frostline(*asked, "data.digits=[2,1]")
    assert (said.code, said.err) == (
        2,
        "init_from: class 0 of its head is 1, and of the data 2: the same classes in another order; bring the data's "
        "into the head's (1, 2), or choose weights that have no head of them\n",
    )
    first = workplace.train("pretrain", "data.digits=[0,1]")
    said = workplace.frostline("finetune", *TINY, f"init_from={first}", "data.digits=[5,6]")
    assert "  ! the head came along, but it is for other classes: 0, 1\n" in said.out
    said = workplace.frostline(*asked, "data.digits=[3,4]")
    assert "  ! the head came along, but it is for other classes: 1, 2\n" in said.out
    said = workplace.frostline(
        "finetune", *TINY, f"init_from={source}", "data.digits=[3,4]", "freeze=last_k", "freeze.k=0"
    )
    assert said.code == 0
    frozen = ("freeze=only", "freeze.stages=[body3]")
    said = workplace.frostline("finetune", *TINY, f"init_from={source}", "data.digits=[3,4]", *frozen)
    assert said.code == 2
    assert said.err.startswith("freeze: the head (linear.bias, linear.weight) knows nothing of these classes and Only ")
    assert "!" not in workplace.frostline(*asked, "data.digits=[1,2]").out


def test_the_head_of_a_pretext_is_of_no_classes(workplace: Workplace) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2,3]", "objective=rotation", "model=resnet20")
    asked = ("model=resnet20", f"init_from={source}", "min_coverage=0.9")
    workplace.train("finetune", "data.digits=[3,2,1,0]", *asked)
