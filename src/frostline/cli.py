"""The command line: verbs, each with Hydra's overrides.

Nothing heavy is imported before the request is known to be right, so that help and mistakes answer at once.
"""

import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from frostline.commands import runs, studies, training
from frostline.commands.arguments import speaks
from frostline.errors import DamagedError, IntegrityError, ProcessError, RequestError

HELP = """Frostline plans, runs, proves and compares freeze strategies for transfer learning.

  frostline pretrain [overrides]            train a network from the start; its weights are kept for others
  frostline finetune [overrides]            train part of a network on another task
  frostline plan [overrides]                what a strategy trains, when, how fast, and what it costs; trains nothing
  frostline plan FOLDER [overrides]         what is left to run of FOLDER/study.yaml, in which order, and what it costs
  frostline study FOLDER [overrides]        run all arms and seeds of FOLDER/study.yaml, then compare them
  frostline resume RUN_ID [fork=true]       go on with an interrupted run, under its id or as a new run
  frostline wise_ft RUN_ID [steps=11]       the path between the weights a run began and ended with
  frostline soup STUDY [arm=NAME]           the mean weights of a study's runs, uniform and greedy
  frostline compare STUDY [out=DIR]         compare a study's recorded runs again, from MLflow alone
  frostline list [GROUP]                    what can be chosen: models, data, strategies, ...

Overrides are Hydra's: `model=resnet20 data=cifar10 data.shots=10 freeze=gradual freeze.every=2 seed=3`.
`-m` runs every combination of `seed=0,1,2 freeze=full,head`. `frostline VERB --help` shows a verb's whole config.
Tab completion: eval "$(frostline -sc install=bash)"

Exit codes: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
"""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    os.environ["FROSTLINE_COMMAND"] = shlex.join(["frostline", *sys.argv[1:]])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing them
    sys.path.insert(0, str(Path.cwd()))  # a user's own classes, named by `_target_`, as with `python -m`
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _dispatch(sys.argv[1:])
    except RequestError as error:
        if speaks():
            print(error, file=sys.stderr)
        code = 2
    except KeyboardInterrupt as interruption:
        print(f"interrupted; {str(interruption) or 'nothing was being trained'}", file=sys.stderr)
        code = 130
    except (
        DamagedError,
        FloatingPointError,
        IntegrityError,
        ProcessError,
    ) as error:  # training went wrong; the record holds the traceback
        print(error, file=sys.stderr)
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    """Treat a polite request to end like Ctrl-C, so that the run's record is closed."""
    raise KeyboardInterrupt


def _dispatch(arguments: Sequence[str]) -> int:
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if verb in ("-sc", "--shell-completion"):
        return _complete(list(arguments))
    if verb not in VERBS:
        from frostline.nearest import did_you_mean

        raise RequestError(f"frostline: no verb '{verb}'; {did_you_mean(verb, VERBS)}")
    if verb not in ("pretrain", "finetune", "plan") and not {"--help", "-h"}.isdisjoint(
        rest
    ):  # Hydra helps with the others
        print(HELP, end="")
        return 0
    return VERBS[verb](rest)


def _complete(arguments: list[str]) -> int:
    """Complete the verb ourselves and everything after it as Hydra does."""
    line = os.environ.get("COMP_LINE", "")
    words = re.split(r"\s+", line.strip())
    if "query=bash" in arguments and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        print(" ".join(VERBS))
        return 0
    verb = words[1] if len(words) > 1 and words[1] in ("pretrain", "finetune", "plan") else "finetune"
    os.environ["COMP_LINE"] = line.replace(f" {verb}", "", 1)
    training.launch("finetune" if verb == "plan" else verb, arguments, lambda cfg: None)
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": training.pretrain,
    "finetune": training.finetune,
    "plan": training.plan,
    "study": studies.study,
    "resume": runs.resume,
    "wise_ft": runs.wise_ft,
    "soup": runs.soup,
    "compare": studies.compare,
    "list": studies.choices,
}
