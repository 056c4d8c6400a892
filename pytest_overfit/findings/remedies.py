"""Remedies: changes that answer a finding, each tried by climbing the broken rung again.

Only a trial that holds confirms one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from pytest_overfit.finding import Finding
from pytest_overfit.network import function_edits, left_out, network_edits, subject_edits
from pytest_overfit.network.recorder import Call, recorded
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject, all_parameters

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung

Change = Callable[["Rung", Finding], "Rung"]


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One change that may mend a rung.

    change raises CannotEdit where there is nothing to change.
    """

    name: str
    change: Change


# -- changes of the recipe -------------------------------------------------------------------------


def lr_times(factor: float) -> Remedy:
    """The recipe's learning rate times a factor."""

    def change(rung: Rung, _: Finding) -> Rung:
        if factor in rung.recipe.fallbacks:
            raise network_edits.CannotEdit("the climb has tried it")
        return replace(rung, recipe=replace(rung.recipe, lr=rung.recipe.lr * factor))

    return Remedy(name=f"learning rate x {factor:g}", change=change)


def _longer(rung: Rung, _: Finding) -> Rung:
    return replace(rung, recipe=replace(rung.recipe, budget=rung.recipe.budget * LONGER_TIMES))


def _accumulated(rung: Rung, _: Finding) -> Rung:
    passes = -(-rung.samples // rung.recipe.batch_of(rung.samples))
    if passes <= rung.recipe.accumulation:
        raise network_edits.CannotEdit("every step sees the whole rung already")
    return replace(rung, recipe=replace(rung.recipe, accumulation=passes))


def _slow_below_the_head(rung: Rung, _: Finding) -> Rung:
    head = network_edits.head_name(_fresh(rung))
    if head is None:
        raise network_edits.CannotEdit("the network has no linear layer for a head")
    return replace(rung, recipe=replace(rung.recipe, layer_lr={"": 0.1, head: 1.0}))


def _other_reduction(rung: Rung, _: Finding) -> Rung:
    if rung.subject.loss is not None:
        raise network_edits.CannotEdit("the subject has a loss of its own")
    return replace(
        rung,
        recipe=replace(rung.recipe, reduction="mean" if rung.recipe.reduction == "sum" else "sum"),
    )


def _smoothed(rung: Rung, _: Finding) -> Rung:
    if rung.samples == 1 or rung.recipe.label_smoothing:
        raise network_edits.CannotEdit(
            "smoothing keeps the loss of one sample above its bound, or is there already"
        )
    return replace(rung, recipe=replace(rung.recipe, label_smoothing=0.05))


def _fresh(rung: Rung) -> nn.Module:
    width = rung.subject.offered(1)[0].features.shape[1]
    return rung.subject.fresh(
        feature_dim=width, seed=rung.seeds[0], size=rung.size, network=rung.recipe.network
    )


def _default_recipe(rung: Rung, _: Finding) -> Rung:
    recipe = replace(default_recipe(rung.samples), network=rung.recipe.network)
    if recipe == rung.recipe:
        raise network_edits.CannotEdit("the recipe is the default one")
    return replace(rung, recipe=recipe)


def _unregularised(rung: Rung, _: Finding) -> Rung:
    recipe = replace(rung.recipe, weight_decay=0.0, label_smoothing=0.0)
    if recipe == rung.recipe:
        raise network_edits.CannotEdit("the recipe regularises nothing")
    return replace(rung, recipe=recipe)


LONGER_TIMES = 3
LONGER = Remedy(name=f"{LONGER_TIMES} times the budget", change=_longer)
ACCUMULATE = Remedy(name="gradients accumulated over the whole rung", change=_accumulated)
SLOW_BELOW_THE_HEAD = Remedy(
    name="a tenth of the learning rate below the head", change=_slow_below_the_head
)
OTHER_REDUCTION = Remedy(
    name="sum for mean, or mean for sum, over the batch", change=_other_reduction
)
SMOOTHING = Remedy(name="label smoothing 0.05", change=_smoothed)
DEFAULT_RECIPE = Remedy(name="the default recipe", change=_default_recipe)
UNREGULARISED = Remedy(name="no weight decay and no label smoothing", change=_unregularised)


# -- changes of the network ------------------------------------------------------------------------


def network_remedy(name: str, operation: network_edits.NetworkEdit) -> Remedy:
    """A change of the fresh network, whatever the finding names."""
    return Remedy(
        name=name,
        change=lambda rung, _: replace(rung, subject=network_edits.edited(rung.subject, operation)),
    )


def module_remedy(name: str, operation: Callable[[str], network_edits.NetworkEdit]) -> Remedy:
    """A change of the module that the finding names."""

    def change(rung: Rung, finding: Finding) -> Rung:
        if finding.module is None:
            raise network_edits.CannotEdit("the finding names no module")
        return replace(
            rung, subject=network_edits.edited(rung.subject, operation(holder_of(finding.module)))
        )

    return Remedy(name=name, change=change)


def holder_of(module: str) -> str:
    """The module whose code holds a function, where a function such as `block.relu()` is named."""
    return module.rpartition(".")[0] if module.endswith("()") else module


def _fan_in(network: nn.Module) -> bool:
    """Recurrent and normalising layers as torch starts them, all others by fan_in."""
    return network_edits.reset(network) | network_edits.fan_in(network)


FAN_IN = network_remedy("fan_in initialisation of every layer", _fan_in)
XAVIER = network_remedy("xavier initialisation", network_edits.xavier)
RESET = network_remedy("torch's own initialisation of every layer", network_edits.reset)
RESET_MODULE = module_remedy(
    "torch's own initialisation of that module", network_edits.reinitialise
)
BYPASS = module_remedy("leave that module out", left_out.bypass)
BYPASS_ALIKE = module_remedy(
    "leave that module out, and its like in other blocks",
    left_out.with_its_like(left_out.bypass),
)
OTHER_AXES = module_remedy(
    "time and batch the other way round in the layers of that module", network_edits.other_axes
)
OTHER_AXES_OF_KIND = module_remedy(
    "time and batch the other way round in all layers that read them as that module does",
    network_edits.other_axes_of_kind,
)
OPEN_ACTIVATIONS = module_remedy(
    "GELU for sigmoid, tanh and softmax there", network_edits.open_activations
)
UNCLIPPED = module_remedy("no rectifier and no clamp there", function_edits.unclipped)
LAYER_NORM = network_remedy("LayerNorm for BatchNorm", network_edits.layer_norm)
USUAL_EPS = network_remedy(
    f"norms with an eps of {network_edits.USUAL_EPS:g}", network_edits.with_usual_eps
)
NO_NORM = network_remedy("no BatchNorm", network_edits.without_batch_norm)
LIVELY_NORM = network_remedy(
    "BatchNorm momentum 0.3 and fresh statistics", network_edits.lively_batch_norm
)
NO_DROPOUT = network_remedy("no dropout", network_edits.without_dropout)
UNFREEZE = network_remedy("every parameter unfrozen", network_edits.unfrozen)
REGISTERED = network_remedy("layers of plain lists and dicts registered", network_edits.registered)
ZERO_BIAS = network_remedy("no bias in the head at the start", network_edits.zero_head_bias)
WIDEN = network_remedy("64 channels at the bottleneck", network_edits.widen(64))


def blocks_remedy(
    name: str, operation: Callable[[Sequence[str]], network_edits.NetworkEdit]
) -> Remedy:
    """A change of all blocks that keep the shape of what they are given."""

    def change(rung: Rung, _: Finding) -> Rung:
        blocks = network_edits.repeated_blocks(rung.subject, _fresh(rung), rung.subject.take(1)[0])
        return replace(rung, subject=network_edits.edited(rung.subject, operation(blocks)))

    return Remedy(name=name, change=change)


def _calls(rung: Rung, share: float = 1.0) -> list[Call]:
    """The calls of a fresh network's modules on the first clip, or a share of it."""
    sample, network = rung.subject.take(1)[0], _fresh(rung).eval()
    frames = max(round(share * sample.frames), 1)
    with torch.no_grad(), recorded(network) as calls:
        rung.subject.log_probs(network, sample.features[None, :frames], torch.tensor([frames]))
    return calls


def _place_of(module: str | None, calls: Sequence[Call]) -> int:
    names = [call.module for call in calls]
    if module not in names:
        raise network_edits.CannotEdit("the finding names no module that runs")
    return names.index(module)


def linear_remedy(name: str, chosen: Callable[[nn.Module, str], Sequence[str]]) -> Remedy:
    """Linear layers in the place of the modules that are chosen by the one that the finding names."""

    def change(rung: Rung, finding: Finding) -> Rung:
        if finding.module is None:
            raise network_edits.CannotEdit("the finding names no module")
        modules = chosen(_fresh(rung), holder_of(finding.module))
        if not modules:
            raise network_edits.CannotEdit("no other block has its like")
        calls, shorter = _calls(rung), _calls(rung, 0.75)
        shapes = {}
        for module in modules:
            call, other = calls[_place_of(module, calls)], shorter[_place_of(module, shorter)]
            sides = (call.inputs, call.outputs, other.outputs)
            shapes[module] = left_out.Shapes(*(tuple(s[0].shape) if s else () for s in sides))
        if all(one.given == one.gave for one in shapes.values()):
            # Nothing at all in its place says the same.
            raise network_edits.CannotEdit("it gives the shape that it is given")
        edit = left_out.linear_instead(shapes)
        return replace(rung, subject=network_edits.edited(rung.subject, edit))

    return Remedy(name=name, change=change)


def _without_bottleneck(rung: Rung, finding: Finding) -> Rung:
    calls, network = _calls(rung), _fresh(rung)
    place = _place_of(finding.module, calls)
    (given, *_), (gave, *_) = calls[place].inputs, calls[place].outputs
    linear = {name for name, one in network.named_modules() if isinstance(one, nn.Linear)}
    readers = (
        call.module
        for call in calls[place + 1 :]
        if call.module in linear and call.inputs[0].shape[-1] == gave.shape[-1]
    )
    reader = next(readers, None)
    if reader is None or given.shape[:-1] != gave.shape[:-1]:
        raise network_edits.CannotEdit("no linear layer reads what it gives")
    edit = left_out.refitted(calls[place].module, reader, given.shape[-1])
    return replace(rung, subject=network_edits.edited(rung.subject, edit))


LINEAR_INSTEAD = linear_remedy(
    "a linear layer in the place of that module", lambda _, module: (module,)
)
LINEAR_ALIKE = linear_remedy(
    "linear layers in the place of that module and its like in other blocks", left_out.alike
)
WITHOUT_IT = (BYPASS, BYPASS_ALIKE, LINEAR_INSTEAD, LINEAR_ALIKE)
"""What isolates a module: the rung holds with anything simpler in its place."""
NORMED_BEFORE = module_remedy(
    "what that module is given normalised over its features", left_out.normed_before
)
NORMED_ALIKE = module_remedy(
    "what that module and its like in other blocks are given normalised",
    left_out.with_its_like(left_out.normed_before),
)
NORMED = (NORMED_BEFORE, NORMED_ALIKE)
WITHOUT_BOTTLENECK = Remedy(
    name="that module left out, and what reads it as wide as that takes",
    change=_without_bottleneck,
)
WITHOUT_BLOCKS = blocks_remedy("the blocks left out, where they keep the shape", left_out.without)
SKIPS = blocks_remedy("a skip connection around each block", left_out.with_skips)


# -- changes of the subject's own functions --------------------------------------------------------


def subject_remedy(name: str, change: Callable[[Subject], Subject]) -> Remedy:
    """A change of the subject's functions.

    What it puts in their place as a whole, its name says.
    """

    def changed(rung: Rung, _: Finding) -> Rung:
        subject = change(rung.subject)
        if all(
            getattr(subject, field.name) is getattr(rung.subject, field.name)
            for field in fields(Subject)
        ):
            raise network_edits.CannotEdit("the subject has it so already")
        return replace(rung, subject=subject)

    return Remedy(name=name, change=changed)


DEFAULT_LOSS = subject_remedy(
    "torch's CTC in the place of the whole loss", lambda subject: replace(subject, loss=None)
)
LOSS_ON_CPU = subject_remedy("the loss computed on the CPU", subject_edits.loss_on_cpu)
DEFAULT_DECODER = subject_remedy(
    "the greedy decoder in the place of the whole decoder",
    lambda subject: replace(subject, decode=None),
)
DEFAULT_BOTH = subject_remedy(
    "torch's CTC and the greedy decoder in the place of both, one blank",
    lambda subject: replace(subject, loss=None, decode=None),
)
NORMALISE = subject_remedy("log_softmax over the vocabulary", subject_edits.normalised)
LOGARITHM = subject_remedy("the logarithm of the probabilities", subject_edits.logarithms)
FROM_HEAD = subject_remedy("log_softmax of the last layer's own output", subject_edits.from_head)
POSITIONS = subject_remedy("the place of each frame added to its features", subject_edits.placed)
PERMUTED = subject_remedy(
    "axes moved where a view or reshape only renames them", function_edits.permuted
)
TURNED_BACK = subject_remedy("each clip's output turned back in time", subject_edits.turned_back)
UNFLIPPED = subject_remedy("nothing turned round", function_edits.unflipped)
UNDETACH = subject_remedy(
    "no .detach() and no torch.no_grad in the forward pass", function_edits.undetached
)
TRUE_GRADIENT = subject_remedy(
    "no hooks on gradients, no backward functions of its own, and no rounding",
    function_edits.with_true_gradients,
)
SLOPED = subject_remedy(
    "the slope of a sigmoid for comparisons, which have none", function_edits.sloped
)
PLAIN_CALL = subject_remedy(
    "the network called with features and frames, nothing around it", subject_edits.plainly_called
)
NO_DROPOUT_AT_ALL = subject_remedy(
    "no dropout, that of functions included", function_edits.undropped
)
NOISELESS = subject_remedy("zeros in the place of random numbers", function_edits.noiseless)
OFF_ZERO = subject_remedy(
    f"roots, logarithms and divisors of zero taken of {function_edits.TINY:g}, arc cosines so far "
    "within 1",
    function_edits.kept_off_zero,
)
KEPT_SMALL = subject_remedy(
    f"exponentials of at most {function_edits.LARGEST:g}", function_edits.kept_small
)
SOME_PLACE = subject_remedy(
    "nothing masked where a mask leaves nothing", function_edits.unmasked_where_whole
)
FLOAT32 = subject_remedy("float32 in the place of half precision", function_edits.in_full_precision)
UNMASKED = subject_remedy(
    "train mode for norms and recurrent layers alone, so that nothing is masked",
    subject_edits.unmasked,
)
STATELESS = subject_remedy(
    "what the network keeps from call to call put back after each", subject_edits.stateless
)
CALLED_FIRST = subject_remedy(
    "the network called once before its parameters are given to the optimiser",
    subject_edits.called_first,
)
COUNT_STEPS = subject_remedy("the steps that each clip really gives", subject_edits.counted_steps)
OTHER_LAYOUT = subject_remedy("time and batch the other way round", subject_edits.other_layout)
ORDER_PUT_BACK = subject_remedy(
    "clips that come out longest first put back into the batch's order",
    subject_edits.order_put_back,
)
ONE_BY_ONE = subject_remedy(
    "clips one by one, without padding or batch mates", subject_edits.one_by_one
)
TRAIN_ALL = subject_remedy(
    "every parameter in the optimiser", lambda subject: replace(subject, trainable=all_parameters)
)


# -- changes of the samples ------------------------------------------------------------------------


def leave_out(rung: Rung, names: Sequence[str]) -> Rung:
    """The rung without the samples of these names.

    Raises CannotEdit where none is left, or none goes.
    """
    samples = rung.subject.offered(rung.samples)
    kept = [sample for sample in samples if sample.name not in names]
    if not kept or len(kept) == len(samples):
        raise network_edits.CannotEdit("no sample is left, or none is named")
    return replace(rung, subject=replace(rung.subject, samples=kept), samples=len(kept))


RELABELLED = 20
"""Clips whose labels must all be tokens once they are moved."""


def relabelled(name: str, by: int) -> Remedy:
    """Labels moved, where that makes each of them one of the vocabulary's tokens."""

    def change(rung: Rung, _: Finding) -> Rung:
        subject = rung.subject
        samples = subject.offered(max(rung.samples, RELABELLED))
        tokens = set(range(len(subject.vocabulary))) - {subject.blank}
        moved = [replace(sample, target=sample.target + by) for sample in samples]
        if not all(tokens.issuperset(sample.target.tolist()) for sample in moved):
            raise network_edits.CannotEdit("it does not make a token of each label")
        return replace(rung, subject=replace(subject, samples=moved))

    return Remedy(name=name, change=change)


RELABEL = (
    relabelled("every label one higher", 1),
    relabelled("every label one lower", -1),
)
LEAVE_OUT = Remedy(
    name="those samples left out", change=lambda rung, finding: leave_out(rung, finding.samples)
)
