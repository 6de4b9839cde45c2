"""Applies a plan to a network while Lightning trains it, and proves that what was frozen stayed frozen.

What trains is a function of progress, written to the network at every phase boundary, on start and after a resume, and
never read back from it. Public hooks of Lightning only.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import Optimizer

from frostline.audit import Audit
from frostline.errors import IntegrityError, RequestError
from frostline.freeze.adaptive import Adaptive
from frostline.freeze.strategy import Decision
from frostline.modules import Training
from frostline.optim.partition import outline
from frostline.plan import Phase, Plan, who_trains
from frostline.processes import finds_unused, share_buffers, world, wrap_anew
from frostline.signals import Sums, overflowed, probe


class Freezing(Callback):
    """Hold a network to its plan.

    Frozen means: no gradient, hence no decay and no momentum, no optimizer state, normalisation on stored statistics,
    dropout off. At the end of each phase everything declared frozen is compared with what it was at the phase's start.

    Args:
        network: The network that the plan speaks of.
        plan: What trains when.
        given: Digests of tensors that are as the run was given them and stay so, which need no hashing at the start.

    Attributes:
        plan: The plan, with what the strategy has decided until now.
        phase: What trains now; None before and after training.
        audit: What was found at the end of each phase.
    """

    def __init__(self, network: nn.Module, plan: Plan, *, given: Mapping[str, str] | None = None) -> None:
        self._network = network
        self.plan = plan
        self.phase: Phase | None = None
        self.audit = Audit(network, plan, given)
        self._step = -1
        self._scales: dict[str, float] = {}
        self._wrapped: Phase | None = None
        self._sums = Sums()
        self._free = {n: p for group in plan.groups for n, p in group.parameters.items() if n not in group.fixed}

    def metrics(self) -> dict[str, float]:
        """Return the audits' finding; a run of no epochs has frozen everything and touched nothing."""
        audited = bool(self.audit.findings) or self.plan.epochs == 0
        return {"audit/frozen_intact": float(self.audit.intact)} if audited else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the optimizer obey the plan's learning-rate factors."""
        for optimizer in trainer.optimizers:
            self.rule(optimizer)

    def rule(self, optimizer: Optimizer) -> None:
        """Make an optimizer obey the plan's learning-rate factors."""
        optimizer.register_step_pre_hook(self._scale_rates)
        optimizer.register_step_post_hook(_restore_rates)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Enter the phase of this epoch; where it is a new one, audit the one that ends."""
        self._enter(trainer, pl_module)
        self._set_modes()
        if trainer.logger is not None:
            trainer.logger.log_metrics(self.rates(trainer.optimizers), step=trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Enter the phase of this optimizer step, where the strategy moves from step to step.

        Under accumulation several batches make one step; the phase changes before the first of them. A run that is
        resumed within an epoch enters here too, since no epoch starts.
        """
        moves = self.plan.strategy.clock == "step" and trainer.global_step != self._step
        if moves or self._step < 0:
            self._enter(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Sum the gradients of this step, where the strategy decides from them; name those that are missing."""
        if world() > 1 and not finds_unused(trainer.strategy):
            self._refuse_what_was_not_used()
        sums = isinstance(self.plan.strategy, Adaptive) and self.plan.strategy.probe is None
        if sums and not overflowed(trainer, self._free):
            self._sums.add(self._free)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let every process evaluate with the statistics of the first one, which are those that are kept."""
        share_buffers(self._network)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the modes back that validation has changed; keep the metric that the strategy waits on."""
        self._set_modes()
        monitor = self.plan.strategy.monitor
        if monitor is not None and not trainer.sanity_checking:
            seen = {trainer.current_epoch: float(trainer.callback_metrics[monitor])}
            self.plan = replace(self.plan, monitored={**self.plan.monitored, **seen})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Audit the last phase, also that of a run that was resumed when it had nothing left to train."""
        self._leave(trainer.global_step)
        self.phase = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Audit the phase that was broken off, by Ctrl-C say; its finding goes to the record like any other.

        Other processes are not waited for: they may be elsewhere.
        """
        if self.phase is not None and not isinstance(exception, IntegrityError):
            self.audit.end(replace(self.phase, stop=trainer.global_step))
        self.phase = None

    def _enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Decide if that is due and take the learning-rate factors of now; where what trains changes, audit first."""
        self._step = trainer.global_step
        moment = self.plan.moment(epoch=trainer.current_epoch, step=self._step)
        self._decide(trainer, module, moment)
        self._scales = self.plan.scales(moment)
        changes = self.phase is None or who_trains(self.phase.scales) != who_trains(self._scales)
        if changes:
            self._leave(moment)
            self.phase = self.plan.phase(moment, stop=self.plan.end, scales=self._scales)
            self.audit.begin(self.phase)
        assert self.phase is not None
        self._apply(self.phase, trainer.optimizers)
        if changes or self._wrapped is not self.phase:
            wrap_anew(trainer.strategy)
            _compile_anew(self._network)
            self._wrapped = self.phase
        self._set_modes()

    def _leave(self, step: int) -> None:
        """Audit the phase that ends before this step, if there is one."""
        if self.phase is not None:
            ended = replace(self.phase, stop=step)
            self.audit.compare_processes(ended.span)
            self.audit.end(ended)

    def _decide(self, trainer: pl.Trainer, module: pl.LightningModule, moment: int) -> None:
        """Let an adaptive strategy take the decision that belongs before this step."""
        strategy, past = self.plan.strategy, self.plan.decisions
        if not isinstance(strategy, Adaptive) or not strategy.due(self.plan.progress(moment)):
            return
        wanted, places = strategy.probe, outline(self.plan.groups)
        looked = (
            probe(trainer, cast("Training", module), self._free, wanted)
            if wanted is not None
            else iter([self._sums.take(self._free)])
        )
        signals = strategy.signals(looked, {n: p.detach() for n, p in self._free.items()}, places)
        scales = strategy.decide(signals, places, past)
        before = past[-1].scales if past else dict.fromkeys(scales, 1.0)
        if strategy.fresh_state == "decision" or (strategy.fresh_state == "change" and scales != before):
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
        self.plan = replace(self.plan, decisions=(*past, Decision(step=moment, signals=signals, scales=scales)))

    def _apply(self, phase: Phase, optimizers: list[Optimizer]) -> None:
        free = self.plan.training(phase.scales)
        for group in self.plan.groups:
            for name, parameter in group.parameters.items():
                parameter.requires_grad_(name in free)
                if name not in free:
                    _forget(parameter, optimizers)

    def _set_modes(self) -> None:
        if self.phase is None:
            return
        for name, module in self._network.named_modules(remove_duplicate=True):
            # A container that spans stages is in train mode: Inception asks its root whether to run auxiliary heads.
            wanted = self.phase.modes.get(name, True)
            if module.training != wanted:  # to set an attribute of a module takes longer than to read it
                module.training = wanted

    def _scale_rates(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]
            group["lr"] = group["lr"] * (self._scales[group["name"]] or 1.0)

    def rates(self, optimizers: list[Optimizer]) -> dict[str, float]:
        """Return the learning rate of each stage now, the highest of its groups; 0 is frozen."""
        rates = {f"lr/{group.stage.name}": 0.0 for group in self.plan.groups}
        for options in (options for optimizer in optimizers for options in optimizer.param_groups):
            stage = f"lr/{options['name'].partition('.')[0]}"
            rates[stage] = max(rates[stage], float(options["lr"]) * self._scales[options["name"]])
        return rates

    def _refuse_what_was_not_used(self) -> None:
        """Name what should train and got no gradient: other processes would wait for it without end."""
        unused = [name for name, p in self._free.items() if p.requires_grad and p.grad is None]
        if unused:
            raise RequestError(
                f"trainer.strategy: {', '.join(unused[:5])} train, but had no part in the loss; freeze them, or choose "
                "trainer.strategy=ddp_find_unused_parameters_true"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know: what was decided and seen, and what the open phase is held against."""
        return {
            "decisions": [asdict(decision) for decision in self.plan.decisions],
            "monitored": dict(self.plan.monitored),
            "sums": dict(self._sums.totals),
            "audits": list(self.audit.findings),
            "phase": None
            if self.phase is None
            else (self.phase.start, dict(self.phase.scales), dict(self.audit.before)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; the phase goes on, and is audited as one."""
        decisions = tuple(Decision(**decision) for decision in state_dict["decisions"])
        self.plan = replace(self.plan, decisions=decisions, monitored=state_dict["monitored"])
        self._sums.totals = state_dict["sums"]
        self.audit.findings = state_dict["audits"]
        if state_dict["phase"] is not None:
            start, scales, self.audit.before = state_dict["phase"]
            self.phase = self.plan.phase(start, stop=self.plan.end, scales=scales)


def _compile_anew(network: nn.Module) -> None:
    """Forget what was compiled: it holds which gradients are taken, and torch keeps only a few versions of it."""
    if network._compiled_call_impl is not None:
        torch.compiler.reset()


def _forget(parameter: nn.Parameter, optimizers: list[Optimizer]) -> None:
    """Drop gradient and state: a stale gradient, or momentum, would still move the parameter at the next step."""
    parameter.grad = None
    for optimizer in optimizers:
        optimizer.state.pop(parameter, None)


def _restore_rates(optimizer: Optimizer, *_: Any) -> None:
    """Give the schedule its rate back: many schedules compute the next one from what they find."""
    for group in optimizer.param_groups:
        group["lr"] = group.pop("scheduled_lr")
