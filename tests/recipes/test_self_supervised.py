"""Pre-training without labels, and what a classifier takes over from it."""

import pytest
from workplace import FOREIGN, Workplace

pytestmark = FOREIGN


@pytest.mark.parametrize("objective", ["rotation", "simclr", "masked_pixels"])
def test_a_classifier_starts_from_a_network_that_saw_no_label(workplace: Workplace, objective: str) -> None:
    source = workplace.train("pretrain", "data.digits=[0,1,2]", f"objective={objective}")
    metrics = workplace.store.client.get_run(source).data.metrics
    assert {"train/loss", "val/loss", "test/knn_accuracy"} <= metrics.keys()
    tuned = workplace.train("finetune", "data.digits=[3,4]", "freeze=head", f"init_from={source}", "min_coverage=0.99")
    assert workplace.store.client.get_run(tuned).data.metrics["audit/frozen_intact"] == 1
    assert "carried 100.0 % of the parameters outside the head" in workplace.artifact(tuned, "carried.txt")
