"""Files of finetuning-scheduler against the schedule that a person would write for them, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from frostline.depth import Outline, Place, Role
from frostline.errors import RequestError
from frostline.freeze.drawing import depths
from frostline.freeze.fts_schedule import fts_schedule
from frostline.freeze.phases import Phase, Plateau
from frostline.freeze.strategy import Progress

STAGES = depths(["stem", "body1", "body2", "head"])
NAMES = {"conv1.weight": 0, "layer.1.weight": 1, "layer.1.bias": 1, "layer.10.weight": 2, "fc.weight": 3, "fc.bias": 3}
PLACES = [Place(stage=STAGES[index], role=Role.WEIGHT, name=name) for name, index in NAMES.items()]
OUTLINE = Outline(stages=STAGES, places=PLACES)

FILE = r"""
0:
  params: [model.fc.weight, model.fc.bias]
  max_transition_epoch: 3
1:
  params:
  - model.layer.(10|11).*
  lr: 1e-03
2:
  params: ['model\.layer\.1\.(weight|bias)', model.conv1.weight]
  max_transition_epoch: -1
  lr: 1.0e-04
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "schedule.yaml"


def rates(schedule, epoch: int, values: list[float] = ()) -> dict[str, float]:
    seen = dict(enumerate(values[:epoch]))
    now = Progress(epoch=epoch, epochs=20, step=epoch, steps=20, monitored=seen)
    return {place.name: scale for place in PLACES if (scale := schedule.scale_of(place, now))}


def test_phases_thaw_one_after_the_other_and_keep_their_rates(file: Path) -> None:
    file.write_text(FILE)
    schedule = fts_schedule(file=str(file), lr=0.01, plateau=Plateau(patience=2))
    assert schedule.problems(OUTLINE, 20) == []
    head = {"fc.weight": 1.0, "fc.bias": 1.0}
    first = head | {"layer.10.weight": pytest.approx(0.1)}
    second = first | {name: pytest.approx(0.01) for name in ("layer.1.weight", "layer.1.bias", "conv1.weight")}
    falling, flat = [-epoch for epoch in range(20)], [1.0] * 20
    assert [rates(schedule, epoch, falling) for epoch in range(20)] == [head] * 3 + [first] * 17
    assert [rates(schedule, epoch, [9, 8, 7, *flat]) for epoch in range(8)] == [head] * 3 + [first] * 3 + [second] * 2


def test_json_is_read_too_and_epochs_alone_need_no_plateau_and_no_later_epoch_is_less(file: Path) -> None:
    phases = {n: {"params": [name], "max_transition_epoch": 2} for n, name in enumerate(["fc.*", "layer.*", "conv1.*"])}
    file.write_text(json.dumps(phases))
    schedule = fts_schedule(file=str(file), base_max_lr=None)
    assert [len(rates(schedule, epoch)) for epoch in range(5)] == [2, 2, 5, 6, 6]
    assert [phase.epoch for phase in schedule.phases] == [None, 2, 3]
    assert schedule.problems(OUTLINE, 5) == []


def test_later_phases_without_a_rate_learn_at_the_callbacks(file: Path) -> None:
    file.write_text("{0: {params: [fc.*], max_transition_epoch: 1, lr: 9.0}, 1: {params: [conv1.weight]}}")
    schedule = fts_schedule(file=str(file), lr=0.001)
    assert rates(schedule, 1) == {"fc.weight": 1.0, "fc.bias": 1.0, "conv1.weight": pytest.approx(0.01)}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            "model.layer",
            "freeze.file.0.train: 'model.layer' matches no whole name; for all that begins so write 'model.layer.*'",
        ),
        ("model.fc.wieght", "freeze.file.0.train: 'model.fc.wieght' matches no parameter; the nearest is 'fc.weight'"),
        (
            "(model.fc.weight|model.layer.1)",
            "freeze.file: '(model.fc.weight|model.layer.1)' takes 'layer.1.weight' there, by its beginning; here a "
            "pattern matches a whole name: write '(model.fc.weight|model.layer.1).*' to take it, "
            "or '(model.fc.weight|model.layer.1)$' to leave it",
        ),
        (
            r"model\.layer\.(1|10\.weight)",
            r"freeze.file: 'model\.layer\.(1|10\.weight)' takes 'layer.1.weight' there, by its beginning; here a "
            r"pattern matches a whole name: write 'model\.layer\.(1|10\.weight).*' to take it, "
            r"or 'model\.layer\.(1|10\.weight)$' to leave it",
        ),
    ],
)
def test_a_pattern_that_takes_other_names_there_is_told_as_the_file_has_it_t9(file: Path, entry: str, sentence) -> None:
    file.write_text(json.dumps({0: {"params": [entry]}}))
    assert fts_schedule(file=str(file)).problems(OUTLINE, 5) == [sentence]


@pytest.mark.parametrize(
    ("entries", "taken"),
    [
        (["fc.*"], {"fc.weight", "fc.bias"}),
        (["fc.weight"], {"fc.weight"}),
        (["layer.1.weight"], {"layer.1.weight"}),
        (["model.layer.1.weight", "(model.conv1|model.fc).weight"], {"layer.1.weight", "conv1.weight", "fc.weight"}),
        ([r"net\.fc\.(weight|bias)"], {"fc.weight", "fc.bias"}),
        ([r"net.\w+.[0-9]\.bias", "net.conv1.weight"], {"layer.1.bias", "conv1.weight"}),
    ],
)
def test_the_name_of_the_network_in_its_module_may_stand_before_names(file: Path, entries: list[str], taken) -> None:
    file.write_text(json.dumps({0: {"params": entries}}))
    schedule = fts_schedule(file=str(file))
    assert schedule.problems(OUTLINE, 5) == []
    assert rates(schedule, 0).keys() == taken


@pytest.mark.parametrize(
    ("text", "given", "sentence"),
    [
        ("[1", {}, "freeze.file: FILE cannot be read as YAML: "),
        ("[1]", {}, "freeze.file: FILE should map the numbers of phases, from 0 on without a gap, to phases"),
        ("{0: {params: [a]}, 2: {params: [a]}}", {}, "freeze.file: FILE should map the numbers of phases"),
        ("{0: [a]}", {}, "freeze.file: FILE: phase 0 should be a mapping with the key params"),
        ("{0: {params: a}}", {}, "freeze.file: FILE: phase 0 should list names of parameters under params"),
        (
            "{0: {params: [a], new_lr_scheduler: {}}}",
            {},
            "freeze.file: FILE: phase 0 has 'new_lr_scheduler': an optimizer and a schedule of learning rates last for "
            "the whole run here; take the key out",
        ),
        (
            "{0: {params: [a], parms: [b]}}",
            {},
            "freeze.file: FILE: phase 0 has 'parms': no such key is known; did you mean 'params'?",
        ),
        ("{0: {params: [a], lr: fast}}", {}, "freeze.file: FILE: phase 0 has an lr that is no number above 0: fast"),
        (
            "{0: {params: [a], max_transition_epoch: soon}}",
            {},
            "freeze.file: FILE: phase 0 has a max_transition_epoch that is no whole number: soon",
        ),
        (
            "{0: {params: [a]}, 1: {params: [b]}}",
            {"lr": 0.1},
            "freeze.plateau: phase 0 of FILE ends when validation stops improving; "
            "say when that is, as in freeze.plateau={metric: val/loss, patience: 3}",
        ),
        (
            "{0: {params: [a], max_transition_epoch: 1}, 1: {params: [b], lr: 1e-4}}",
            {},
            "freeze.lr: phase 1 learns at 0.0001; say at which rate the optimizer does, "
            "with freeze.lr='${optimizer.lr}'",
        ),
    ],
)
def test_a_file_that_asks_for_what_is_not_done_here_is_refused(file: Path, text: str, given, sentence: str) -> None:
    file.write_text(text)
    with pytest.raises(RequestError, match=re.escape(sentence.replace("FILE", str(file)))):
        fts_schedule(file=str(file), **given)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^freeze.file: there is no file .*none.yaml; name one$"):
        fts_schedule(file=str(tmp_path / "none.yaml"))
    with pytest.raises(RequestError, match=r"^freeze.file: .* cannot be read \(Is a directory\); name a file$"):
        fts_schedule(file=str(tmp_path))


def test_a_plateau_may_be_a_mapping_as_a_config_gives_it(file: Path) -> None:
    file.write_text("{0: {params: [fc.*]}, 1: {params: [conv1.weight]}}")
    schedule = fts_schedule(file=str(file), lr=0.1, plateau={"metric": "val/loss", "patience": 1})
    assert schedule.phases[1].plateau == Plateau(patience=1)
    assert schedule.monitor == "val/loss"


def test_the_content_of_the_file_is_what_a_run_is_known_by(file: Path) -> None:
    file.write_text("{0: {params: [fc.*]}}")
    before = fts_schedule(file=str(file)).content
    file.write_text("{0: {params: [conv1.*]}}")
    assert fts_schedule(file=str(file)).content != before
    assert before == repr((Phase(train=["re:fc.*"], rate=[1.0]),))
