"""Weights that MLflow's model registry holds."""

from workplace import FOREIGN, Workplace

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
