"""One process of a run that has several: `python -m frostline.rank FOLDER`, started by `launch`."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from frostline.errors import IntegrityError, RequestError


def main() -> None:
    """Train along with the other processes, and write what the run came to, or when and why it failed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the parent runs in the background
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    sys.path.insert(0, str(Path.cwd()))
    folder = Path(sys.argv[1])
    try:
        told, code = _run(json.loads((folder / "task.json").read_text())), 0
    except KeyboardInterrupt as interruption:
        told, code = {"error": "KeyboardInterrupt", "message": str(interruption)}, 130
    except Exception as error:
        kind = next((k.__name__ for k in (RequestError, IntegrityError) if isinstance(error, k)), type(error).__name__)
        told, code = {"error": kind, "message": str(error) or kind, "failed_at": time.monotonic()}, 1
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))
    sys.exit(code)


def _run(task: dict[str, Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from frostline.interruption import Continued
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    cfg = OmegaConf.create(task["config"])
    store = open_store(cfg)
    prepared = prepare(cfg, task["verb"], store)
    continued = Continued.from_plain(task["continued"]) if task["continued"] else None
    outcome = execute(prepared, store, tags=task["tags"], parent=task["parent"], continued=continued)
    return {"run_id": outcome.run_id, "metrics": dict(outcome.metrics)}


def _end_with_the_parent() -> None:
    """A killed parent can tell nobody: without it, this process would train on for no one."""
    while os.getppid() == int(os.environ["FROSTLINE_PARENT"]):
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
