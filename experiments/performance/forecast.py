"""What `frostline plan` says of a run beside what the run then measures: FLOPs, seconds and peak memory.

Static strategies on four networks; each forecast and each run in a process of its own, so that peaks are honest. The
measured run records the prediction that it made of itself too. Networks whose weights are not here are left out, see
`experiments/sst2`. Run it on a quiet machine, some forty minutes:

    python experiments/performance/forecast.py [NETWORK ...]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

STRATEGIES = ["full", "head", "last_k", "freeze_embed", "bitfit", "norm", "lora", "lp_ft"]
DIGITS = ["data=digits", "trainer.max_epochs=2", "optimizer.lr=1e-5"]  # what trains from nothing must not diverge
MINILM, SHARED = (os.environ.get(name, "") for name in ("FROSTLINE_MINILM", "FROSTLINE_SHARED"))
SST2 = [
    f"data.{split}={SHARED}/data/sst2/{name}.tsv"
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test"))
]
NETWORKS = {
    "resnet20": ["model=resnet20", *DIGITS, "data.shots=80"],
    "resnet56": ["model=resnet56", *DIGITS, "data.shots=40", "data.batch_size=32"],
    "resnet18": [
        "model=torchvision",
        "model.name=resnet18",
        "model.weights=null",
        *DIGITS,
        "data.image_size=64",
        "data.shots=30",
    ],
    "minilm": [
        *("model=transformers", f"model.name={MINILM}", "data=text", *SST2, "data.shots=80", "data.val_shots=40"),
        *("data.max_length=32", "data.batch_size=16", "optimizer=adamw", "optimizer.lr=1e-4"),
        *("trainer.max_epochs=2", "trainer.limit_test_batches=1"),
    ],
}
ALWAYS = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
TIMES = 3
"""How often each plan and each run is made, by turns: of some seconds, both scatter as the machine does."""

COSTS = {"train_flops": "FLOPs", "wall_s": "seconds", "peak_memory_mb": "peak MB"}


def one(job: str, overrides: list[str]) -> None:
    """Forecast, or run, and print what it costs as JSON."""
    from frostline.calibration import calibrated
    from frostline.config.compose import compose
    from frostline.prepare import open_store, prepare
    from frostline.run import execute

    cfg = compose("finetune", overrides)
    prepared = prepare(cfg, "finetune", open_store(cfg))
    costs = calibrated(prepared).metrics() if job == "plan" else execute(prepared, open_store(cfg)).metrics
    print(json.dumps({name: value for name, value in costs.items() if name.startswith("cost/")}))


def in_a_process(job: str, overrides: list[str]) -> dict[str, float]:
    """Do one job in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), job, *overrides]
        environment = {**os.environ, "XDG_CACHE_HOME": folder}  # nothing is kept of earlier runs
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows(networks: list[str]) -> Iterator[tuple[str, str, dict[str, tuple[float, float, float]]]]:
    """Yield network, strategy, and by cost what the plan said, what the run said beforehand, and what it measured."""
    for network in networks:
        for strategy in STRATEGIES:
            overrides = [*NETWORKS[network], *ALWAYS, f"freeze={strategy}"]
            pairs = [(in_a_process("plan", overrides), in_a_process("run", overrides)) for _ in range(TIMES)]
            said, run = (medians(each) for each in zip(*pairs, strict=True))
            foreseen = {name: (said[f"cost/predicted_{name}"], run[f"cost/predicted_{name}"]) for name in COSTS}
            yield network, strategy, {name: (*both, run[f"cost/{name}"]) for name, both in foreseen.items()}


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each cost."""
    return {name: median(costs[name] for costs in found) for name in found[0]}


def main(asked: list[str]) -> None:
    """Print the table, and the median error of each cost over the strategies of each network."""
    networks = asked or [name for name in NETWORKS if name != "minilm" or (MINILM and SHARED)]
    print(f"{'':22}" + "".join(f"{name + ': plan':>18}{'own':>10}{'measured':>10}" for name in COSTS.values()))
    errors: dict[tuple[str, str], list[float]] = {}
    for network, strategy, costs in rows(networks):
        cells = [f"{plan:18.4g}{own:10.4g}{measured:10.4g}" for plan, own, measured in costs.values()]
        print(f"{network:9} {strategy:12}" + "".join(cells), flush=True)
        for name, (plan, _, measured) in costs.items():
            errors.setdefault((network, name), []).append(abs(plan / measured - 1))
    for (network, name), found in errors.items():
        print(f"{network:9} {COSTS[name]:8} median error {median(found):6.1%}, greatest {max(found):6.1%}")


if __name__ == "__main__":
    if sys.argv[1:2] in (["plan"], ["run"]):
        one(sys.argv[1], sys.argv[2:])
    else:
        main(sys.argv[1:])
