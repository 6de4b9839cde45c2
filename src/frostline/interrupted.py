"""Which recorded runs can go on; known before anything heavy is imported."""

from socket import gethostname

from frostline.errors import RequestError
from frostline.store import Run, Store


def interrupted(store: Store, run_id: str, *, fork: bool) -> Run:
    """Return a run that can go on.

    Args:
        store: The store that holds it.
        run_id: Its id.
        fork: Whether a new run goes on from it, which one that has finished allows too.

    Raises:
        RequestError: The run has finished or is running, or is no training run.
    """
    store.bury_the_dead()
    run = store.run(run_id)
    host = run.data.tags.get("frostline.host")
    elsewhere = host != gethostname()
    status, phase = run.info.status, run.data.tags.get("frostline.phase")
    if phase not in ("pretrain", "finetune"):
        raise RequestError(f"run {run_id}: is a {phase}, not a training run; `frostline study` goes on with a study")
    if status == "RUNNING" and not (fork and elsewhere):
        process = f"process {run.data.tags.get('frostline.pid')}{f' on {host}' * elsewhere} is running it"
        way_out = f", or was killed there: resume it on {host}, or with fork=true as a new run" * elsewhere
        raise RequestError(f"run {run_id}: {process}{way_out}")
    if status == "FINISHED" and not fork:
        raise RequestError(f"run {run_id}: has finished; fork=true trains on from its end, with other settings")
    return run
