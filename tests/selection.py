"""What strategies train of a network, against what an expert would say, who looks at names and shapes only."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from frostline.freeze.bitfit import BitFit
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.strategy import FreezeStrategy
from frostline.nn.stages import Stage
from frostline.optim.partition import partition
from frostline.plan import Plan

BIASES = {
    "bias": "of a layer, and the shift of a normalisation layer",
    "in_proj_bias": "of the queries, keys and values of torch's attention",
    "q_bias": "of BEiT's, EVA's and Swin V2's queries, whose keys have none",
    "v_bias": "of their values",
    "bias_ih_l0": "of a recurrent layer",
    "bias_hh_l0": "of a recurrent layer",
    "bias_ih_l0_reverse": "of a recurrent layer, backwards",
    "bias_hh_l0_reverse": "of a recurrent layer, backwards",
    "beta": "the shift of ResMLP's affine layers, which stand for normalisation",
}
"""What a bias is called, by the last part of its name."""

NO_BIASES = {
    "weight": "the scale of a normalisation layer, or a layer of one output",
    "alpha": "the scale of ResMLP's affine layers",
    "gamma": "the scale of a residual branch, as the others here that begin with it",
    "gamma_1": "",
    "gamma_2": "",
    "gamma1": "",
    "gamma2": "",
    "gamma3": "",
    "gamma_xca": "",
    "layer_scale": "",
    "ls1": "",
    "ls2": "",
    "scale": "of a residual branch, or of HGNet's affine layers",
    "gain": "the scale of a weight-standardised convolution",
    "scale_weight": "of SSD's normalisation",
    "logit_scale": "the temperature of Swin V2's attention",
    "temperature": "of cross-covariance attention",
    "gating_param": "how much ConViT's attention looks at positions",
    "w_g": "the weight of additive attention",
    "relative_position_bias_table": "a table, a vector where there is one head",
    "cls_token": "a token, as the others here",
    "class_token": "",
    "dist_token": "",
    "cls_token1": "",
    "cls_token2": "",
    "cls_token3": "",
    "cls_token4": "",
    "cls_token_0": "",
    "cls_token_1": "",
}
"""What else is a vector, and why no expert would call it a bias."""


def trained(cut: Sequence[Stage], strategy: FreezeStrategy) -> set[str]:
    """The parameters that a plan trains in its first step, by name."""
    plan = Plan(strategy=strategy, stages=cut, groups=partition(cut), epochs=1)
    scales = plan.scales(0)
    return {name for group in plan.groups if scales[group.name] for name in group.parameters.keys() - group.fixed}


def assert_selected(network: nn.Module, cut: Sequence[Stage], *, head: set[str], last: set[str]) -> None:
    """Assert what `head`, `last_k=1` and `bitfit` train, given the names of the head and of what lies below it."""
    free = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert head
    assert last
    assert trained(cut, Head()) == head & free
    assert trained(cut, LastK(k=1)) == (head | last) & free
    assert trained(cut, BitFit()) == (head | biases(network)) & free


def biases(network: nn.Module) -> set[str]:
    """The biases of a network by their names; every other vector must be known, too, so that none is overlooked."""
    vectors = {name for name, parameter in network.named_parameters() if _is_vector(parameter)}
    unknown = {name for name in vectors if _last(name) not in {*BIASES, *NO_BIASES}}
    assert not unknown, f"is this a bias? {sorted(unknown)[:5]}"
    found = {name for name, _ in network.named_parameters() if _last(name) in BIASES}
    assert found <= vectors
    return found


def under(network: nn.Module, modules: Iterable[str]) -> set[str]:
    """The parameters of these modules, by name; each module must have some."""
    owned = {module: {n for n, _ in network.named_parameters() if n.startswith(f"{module}.")} for module in modules}
    assert all(owned.values()), f"no parameters in {[module for module, names in owned.items() if not names]}"
    return set[str]().union(*owned.values())


def resized(network: nn.Module, other: nn.Module) -> set[str]:
    """The parameters that have another shape in the same network for another number of classes."""
    shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
    assert shapes.keys() == dict(network.named_parameters()).keys()
    return {name for name, parameter in network.named_parameters() if parameter.shape != shapes[name]}


def _is_vector(parameter: Tensor) -> bool:
    return sum(side > 1 for side in parameter.shape) <= 1


def _last(name: str) -> str:
    return name.rpartition(".")[2]
