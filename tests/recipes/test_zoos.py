"""Networks of other zoos are trained, frozen and audited like any other."""

import pytest
from onnx_files import export, residual
from workplace import FOREIGN, Workplace

pytestmark = FOREIGN

FREEZES = [("freeze=head",), ("freeze=last_k", "freeze.k=1")]


@pytest.mark.parametrize("freeze", FREEZES, ids=["head", "last_k"])
def test_what_is_frozen_of_a_network_of_timm_stays(workplace: Workplace, freeze: tuple[str, ...]) -> None:
    model = ("model=timm", "model.name=test_resnet", "model.weights=null")
    run = workplace.train("finetune", "data.digits=[3,4]", *model, *freeze, "data.image_size=32")
    metrics = workplace.store.client.get_run(run).data.metrics
    assert metrics["audit/frozen_intact"] == 1
    assert "test/accuracy" in metrics


@pytest.mark.parametrize("freeze", FREEZES, ids=["head", "last_k"])
def test_what_is_frozen_of_a_model_of_onnx_stays(workplace: Workplace, freeze: tuple[str, ...]) -> None:
    path = export(residual(), workplace.folder / "model.onnx")
    run = workplace.train("finetune", "data.digits=[3,4]", "model=onnx", f"model.file={path}", *freeze)
    assert workplace.store.client.get_run(run).data.metrics["audit/frozen_intact"] == 1
