"""Proof that what was declared frozen stayed as it was, and that all processes hold the same network."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from frostline.digest import digest_of_all, digests
from frostline.errors import IntegrityError
from frostline.plan import Phase, Plan
from frostline.processes import everyones, world


class Audit:
    """Compares tensors at the end of a phase with what they were at its start, or as the run was given them.

    Args:
        network: The network.
        plan: Its stages and groups; what the plan decides later makes no difference here.
        given: Digests of tensors that are as the run was given them, and so at the start of any phase: whoever loads
            other ones, as a fork does, takes their names out of this mapping before a phase begins.

    Attributes:
        findings: What was found at the end of each phase, in plain types.
        before: Of the phase that is open, the digest of each tensor that it declares frozen, by name.
    """

    def __init__(self, network: nn.Module, plan: Plan, given: Mapping[str, str] | None = None) -> None:
        self._network = network
        self._plan = plan
        self._given = {} if given is None else given
        self._types = {name: tensor.dtype for name, tensor in self._tensors.items()}
        self.findings: list[dict[str, Any]] = []
        self.before: dict[str, str] = {}

    @property
    def intact(self) -> bool:
        """Whether everything frozen was found as it had been, every time."""
        return all(finding["intact"] for finding in self.findings)

    def begin(self, phase: Phase) -> None:
        """Remember what a phase that begins declares frozen."""
        self.before = self._digests(phase, self._given)

    def end(self, phase: Phase) -> None:
        """Compare, at the end of a phase.

        Raises:
            IntegrityError: Something frozen has changed.
        """
        self._judge(phase.span, self.before, self._digests(phase, {}))

    @contextmanager
    def held(self, what: str, phase: Phase) -> Iterator[None]:
        """Compare the parameters that a phase declares frozen over what happens in this context, in place of steps."""
        frozen = [group for group in self._plan.groups if not phase.scales[group.name]]
        parameters = {name: p for group in frozen for name, p in group.parameters.items()}
        before = digests(parameters)
        yield
        self._judge(what, before, digests(parameters))

    def compare_processes(self, span: str) -> None:
        """Compare the parameters of all processes, frozen or not; every process must come here.

        Raises:
            IntegrityError: One has come to others than the first.
        """
        hashes = everyones(digest_of_all(dict(self._network.named_parameters()))) if world() > 1 else []
        apart = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
        if apart:
            raise IntegrityError(
                f"process {apart[0]} has come to other parameters than process 0 in {span}; the run cannot be believed"
            )

    def _judge(self, span: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        changed = sorted(name for name, value in before.items() if after[name] != value)
        self.findings.append(_finding(span, after, changed))
        if changed:
            raise IntegrityError(
                f"{len(changed)} frozen tensors changed in {span}: {', '.join(changed[:5])}; the run cannot be believed"
            )

    def _digests(self, phase: Phase, known: Mapping[str, str]) -> dict[str, str]:
        """Return the digests of what a phase declares frozen; other precisions than before are not known."""
        current = self._tensors
        frozen = {name: current.get(name, tensor) for name, tensor in self._frozen(phase)}
        new = {n: tensor for n, tensor in frozen.items() if n not in known or tensor.dtype != self._types.get(n)}
        hashed = digests(new)
        return {name: hashed[name] if name in hashed else known[name] for name in frozen}

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return dict(self._network.named_buffers()) | dict(self._network.named_parameters())

    def _frozen(self, phase: Phase) -> Iterator[tuple[str, Tensor]]:
        """Yield everything that the phase declares frozen: parameters, and buffers of modules that are not training.

        A buffer of a container that spans stages counts as the stage that it was given to.
        """
        free = self._plan.training(phase.scales)
        for group in self._plan.groups:
            for name, parameter in group.parameters.items():
                if name not in free:
                    yield name, parameter
        for stage in self._plan.stages:
            trains = any(phase.modes[name] for name in stage.modules)
            for name, buffer in stage.buffers.items():
                if not phase.modes.get(name.rpartition(".")[0], trains):
                    yield name, buffer


def _finding(span: str, found: Mapping[str, str], changed: list[str]) -> dict[str, Any]:
    whole = hashlib.blake2b("".join(f"{n}{d}" for n, d in sorted(found.items())).encode(), digest_size=16)
    return {
        "span": span,
        "frozen_tensors": len(found),
        "digest": whole.hexdigest(),
        "changed": changed,
        "intact": not changed,
    }
