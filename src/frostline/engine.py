"""Applies a plan to a network while Lightning trains it, and proves that what was frozen stayed frozen.

What trains is a function of progress, written to the network at every phase boundary, on start and after a resume, and
never read back from it. Public hooks of Lightning only.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from frostline.errors import IntegrityError
from frostline.plan import Phase, Plan


class Freezing(Callback):
    """Hold a network to its plan.

    Frozen means: no gradient, hence no decay and no momentum, no optimizer state, normalisation on stored statistics,
    dropout off. At the end of each phase everything declared frozen is compared with what it was at the phase's start.

    Args:
        network: The network that the plan speaks of.
        plan: What trains when.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        self._network = network
        self._plan = plan
        self._phase: Phase | None = None
        self._step = -1
        self._before: dict[str, str] = {}
        self._scales: dict[str, float] = {}
        self.audits: list[dict[str, Any]] = []

    @property
    def intact(self) -> bool:
        """Whether every audit so far found everything frozen as it was."""
        return all(audit["intact"] for audit in self.audits)

    def metrics(self) -> dict[str, float]:
        """Return the audits' finding; a run of no epochs has frozen everything and touched nothing."""
        audited = bool(self.audits) or self._plan.epochs == 0
        return {"audit/frozen_intact": float(self.intact)} if audited else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the optimizer obey the plan's learning-rate factors."""
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(self._scale_rates)
            optimizer.register_step_post_hook(_restore_rates)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Enter the phase of this epoch; where it is a new one, audit the one that ends."""
        self._enter(trainer)
        self._set_modes()
        if trainer.logger is not None:
            trainer.logger.log_metrics(self._rates(trainer.optimizers), step=trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Enter the phase of this optimizer step, where the strategy moves from step to step.

        Under accumulation several batches make one step; the phase changes before the first of them.
        """
        if self._plan.strategy.clock == "step" and trainer.global_step != self._step:
            self._enter(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the modes back that validation has changed."""
        self._set_modes()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Audit the last phase."""
        self._audit()
        self._phase = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Audit the phase that was broken off, by Ctrl-C say; its finding goes to the record like any other."""
        if not isinstance(exception, IntegrityError):
            self._audit()
        self._phase = None

    def _enter(self, trainer: pl.Trainer) -> None:
        """Take the learning-rate factors of now; where another phase begins, audit the one that ends."""
        self._step = trainer.global_step
        moment = self._plan.moment(epoch=trainer.current_epoch, step=self._step)
        phase, self._scales = self._plan.phase(moment), self._plan.scales(moment)
        if phase is self._phase:
            return
        self._audit()
        self._apply(phase, trainer.optimizers)
        self._phase, self._before = phase, self._digests(phase)
        self._set_modes()

    def _apply(self, phase: Phase, optimizers: list[Optimizer]) -> None:
        for group in self._plan.groups:
            for name, parameter in group.parameters.items():
                free = bool(phase.scales[group.name]) and name not in group.fixed
                parameter.requires_grad_(free)
                if not free:
                    _forget(parameter, optimizers)

    def _set_modes(self) -> None:
        if self._phase is None:
            return
        for name, module in self._network.named_modules(remove_duplicate=True):
            # A container that spans stages is in train mode: Inception asks its root whether to run auxiliary heads.
            module.training = self._phase.modes.get(name, True)

    def _scale_rates(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]
            group["lr"] = group["lr"] * (self._scales[group["name"]] or 1.0)

    def _rates(self, optimizers: list[Optimizer]) -> dict[str, float]:
        """Return the learning rate of each stage now, the highest of its groups; 0 is frozen."""
        rates = {f"lr/{group.stage.name}": 0.0 for group in self._plan.groups}
        for options in (options for optimizer in optimizers for options in optimizer.param_groups):
            stage = f"lr/{options['name'].partition('.')[0]}"
            rates[stage] = max(rates[stage], float(options["lr"]) * self._scales[options["name"]])
        return rates

    def _frozen(self, phase: Phase) -> Iterator[tuple[str, Tensor]]:
        """Yield everything that the phase declares frozen: parameters, and buffers of modules that are not training.

        A buffer of a container that spans stages counts as the stage that it was given to.
        """
        for group in self._plan.groups:
            for name, parameter in group.parameters.items():
                if not phase.scales[group.name] or name in group.fixed:
                    yield name, parameter
        for stage in self._plan.stages:
            trains = any(phase.modes[name] for name in stage.modules)
            for name, buffer in stage.buffers.items():
                if not phase.modes.get(name.rpartition(".")[0], trains):
                    yield name, buffer

    def _digests(self, phase: Phase) -> dict[str, str]:
        current = dict(self._network.named_buffers()) | dict(self._network.named_parameters())
        return {name: digest(current.get(name, tensor)) for name, tensor in self._frozen(phase)}

    def _audit(self) -> None:
        if self._phase is None:
            return
        after = self._digests(self._phase)
        changed = sorted(name for name, value in self._before.items() if after[name] != value)
        self.audits.append(_finding(self._phase, after, changed))
        if changed:
            raise IntegrityError(
                f"{len(changed)} frozen tensors changed in {self._phase.span}: {', '.join(changed[:5])}; "
                "the run cannot be believed"
            )


def digest(tensor: Tensor) -> str:
    """Return a hash of a tensor's bytes, shape and type."""
    data = tensor.detach().cpu().contiguous()
    head = f"{data.dtype}{tuple(data.shape)}".encode()
    return hashlib.blake2b(head + data.flatten().view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()


def _finding(phase: Phase, digests: Mapping[str, str], changed: list[str]) -> dict[str, Any]:
    whole = hashlib.blake2b("".join(f"{n}{d}" for n, d in sorted(digests.items())).encode(), digest_size=16)
    return {
        "span": phase.span,
        "frozen_tensors": len(digests),
        "digest": whole.hexdigest(),
        "changed": changed,
        "intact": not changed,
    }


def _forget(parameter: nn.Parameter, optimizers: list[Optimizer]) -> None:
    """Drop gradient and state: a stale gradient, or momentum, would still move the parameter at the next step."""
    parameter.grad = None
    for optimizer in optimizers:
        optimizer.state.pop(parameter, None)


def _restore_rates(optimizer: Optimizer, *_: Any) -> None:
    """Give the schedule its rate back: many schedules compute the next one from what they find."""
    for group in optimizer.param_groups:
        group["lr"] = group.pop("scheduled_lr")
