import math

import pytest
import torch

from frostline.optim.schedules import constant, cosine


def curve(schedule, steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, total_steps=steps, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_stays() -> None:
    assert curve(constant, 5) == [2.0] * 5


def test_cosine_is_torchs_own() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve(cosine, 10) == pytest.approx(expected)


def test_warmup_rises_linearly_to_the_rate_and_then_falls() -> None:
    rates = curve(cosine, 20, warmup=0.25)
    assert rates[:5] == pytest.approx([2.0 * (step + 1) / 6 for step in range(5)])
    assert rates[5:] == pytest.approx([1 + math.cos(math.pi * step / 15) for step in range(15)])
    assert curve(constant, 8, warmup=0.5) == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])
