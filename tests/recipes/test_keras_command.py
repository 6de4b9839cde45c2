"""Networks of Keras through the command line."""

import pytest
from workplace import FOREIGN, TINY, Workplace

pytest.importorskip("h5py", reason="the extra keras is not installed")
pytestmark = FOREIGN
MOBILENET = (
    "model=keras",
    "model.name=MobileNetV2",
    "model.weights=null",
    "model.arguments={alpha: 0.35}",
    "model.size=32",
)
SMALL = tuple(override for override in TINY if not override.startswith("data.image_size"))


@pytest.mark.parametrize(
    "freeze", [["freeze=head"], pytest.param(["freeze=last_k", "freeze.k=2"], marks=pytest.mark.slow)]
)
def test_a_network_of_keras_is_fine_tuned_with_what_is_frozen_intact(workplace: Workplace, freeze: list[str]) -> None:
    said = workplace.frostline("finetune", *SMALL, *MOBILENET, "data.image_size=32", *freeze)
    assert said.code == 0, said.err
    run = workplace.store.run(said.run_id)
    assert run.data.metrics["audit/frozen_intact"] == 1
    assert "test/accuracy" in run.data.metrics


def test_a_wrong_argument_is_told(workplace: Workplace) -> None:
    said = workplace.frostline("plan", *SMALL, "model=keras", "model.name=MobileNetV2", "model.arguments={alpa: 1}")
    assert said.code == 2
    assert "model.arguments.alpa: MobileNetV2 takes no such argument from here; did you mean 'alpha'?" in said.err
