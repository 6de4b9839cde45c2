"""An interrupted run goes on under its own id as if it had never stopped, or as another run from where it stopped."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.config.compose import checked, compose
from frostline.config.effective import WITHOUT_EFFECT, effective, flatten, is_below, plain
from frostline.config.overrides import set_by
from frostline.config.recorded import recorded_config
from frostline.config.vocabulary import groups
from frostline.errors import RequestError
from frostline.interruption import LAST, Continued, read_checkpoint
from frostline.modules import names_in
from frostline.prepare import Prepared, Verb, prepare
from frostline.run import Outcome, checkpoints, execute
from frostline.store import Run, Store


def resume(store: Store, run: Run, overrides: Sequence[str], *, fork: bool) -> Outcome:
    """Let an interrupted run go on.

    Args:
        store: The store that holds it.
        run: The run, one that `interrupted` returned.
        overrides: Changes to its config. Nothing that the result depends on may change, unless it is forked.
        fork: Whether to go on as a new run, whose config may differ; what is changed of optimizer, schedule or strategy
            starts anew.

    Raises:
        RequestError: What the run depends on has changed, or its checkpoint is broken.
    """
    run_id = run.info.run_id
    verb: Verb = "pretrain" if run.data.tags["frostline.phase"] == "pretrain" else "finetune"
    recorded = recorded_config(store.read(run_id, "config.yaml"), verb)
    prepared = prepare(_changed(recorded, verb, overrides), verb, store)
    different = list(_differences(run, recorded, prepared))
    if different and not fork:
        raise RequestError(
            "\n  ".join([f"run {run_id} was begun with another request:", *different])
            + "\nresume it as it was, or add fork=true to go on from there as a new run"
        )
    folder, anew = checkpoints(store, run_id), _groups(different)
    if (folder / LAST).exists():  # what is broken or does not fit is told before the record is opened again
        _refuse_what_does_not_fit(read_checkpoint(folder / LAST), prepared, run_id, anew)
    else:
        _refuse_a_fork_without_a_checkpoint(run)
    finished = run.info.status == "FINISHED"
    continued = Continued(run_id=None if fork else run_id, folder=folder, anew=anew, finished=finished)
    return execute(prepared, store, tags={"forked_from": run_id} if fork else {}, continued=continued)


def _refuse_a_fork_without_a_checkpoint(run: Run) -> None:
    """Refuse to begin a fork anew, from what its config names; a run of a study may begin so, as it would alone."""
    tags = run.data.tags
    origin = tags.get("frostline.forked_from")
    if origin is not None and "frostline.forked_at" not in tags:
        raise RequestError(
            f"run {run.info.run_id}: is a fork of {origin}, killed before it had a checkpoint; fork {origin} again"
        )


def _refuse_what_does_not_fit(
    checkpoint: Mapping[str, Any], prepared: Prepared, run_id: str, anew: Collection[str]
) -> None:
    way_out = f"begin a new run with init_from={run_id} once that one has finished, or leave it as it was"
    if "data" in anew:
        raise RequestError(f"data: a fork goes on at a place in the data that the run was begun with; {way_out}")
    if names_in(checkpoint) != prepared.module.state_dict().keys():
        raise RequestError(
            f"{min(anew, default='model')}: gives the network other tensors than the checkpoint holds; {way_out}"
        )


def _changed(recorded: DictConfig, verb: str, overrides: Sequence[str]) -> DictConfig:
    """Return a recorded config with overrides: a group's choice is composed as always, a value is set."""
    tree = OmegaConf.create(plain(recorded))
    for override in overrides:
        key, value = set_by(override)
        chosen = compose(verb, [override])[key] if key in groups() else value
        OmegaConf.update(tree, key, chosen, merge=False, force_add=True)
    return checked(tree, verb)


def _differences(run: Run, recorded: DictConfig, prepared: Prepared) -> Iterator[str]:
    """Yield what the result depends on and is not as it was when the run began."""
    before, now = (flatten(effective(plain(cfg))) for cfg in (recorded, prepared.cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not is_below(key, WITHOUT_EFFECT):
            yield f"{key}: {before.get(key)} then, {now.get(key)} now"
    for tag, hashed in (("data", prepared.data.fingerprint()), ("weights", prepared.weights)):
        if run.data.tags[f"frostline.{tag}"] != hashed:
            yield f"{tag}: other content than then"


def _groups(different: Sequence[str]) -> frozenset[str]:
    return frozenset(sentence.partition(":")[0].partition(".")[0] for sentence in different)
