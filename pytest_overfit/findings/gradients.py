"""Findings of gradients: what autograd gives must be how the output changes, clip by clip and
module by module.

In double precision, along random directions in the parameters, a difference of the output is right
to seven digits, kinks aside; where it disagrees, differences to both sides judge. A fresh network
may stand on a kink: where a bias is zero and the features are, as of a hand that was not seen, so
is what enters the ReLU. It is therefore looked at a little beside its initial parameters, where so
small a step hardly ever meets one. So a hook that silences a clip, a backward function that is
wrong, or a gradient made finite by hand shows. A positive factor on a module's gradient is a usual
trick (a slower feature extractor) and only told; an estimator that is meant to differ, as one that
passes through a rounding, is declared: `Subject(straight_through=("quantiser",))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import is_lazy

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.wiring import nodes_behind
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import TRUE_GRADIENT, WITHOUT_IT
from pytest_overfit.findings.running import Unexaminable
from pytest_overfit.network.recorder import in_double, tensors, undisturbed, watched

STEP = 1e-7
STEPS = (STEP, 1e-9, 1e-11)
"""Steps tried in turn: behind a norm over what hardly varies the output bends within the first."""
DIRECTIONS = 2
ASIDE = 1e-2
"""How far from its initial value each parameter is looked at, as a share of its size."""
OFF = 0.05
"""Relative error that no rounding explains."""
MOST_MODULES = 48


def gradients_are_true(bench: Bench) -> tuple[Finding, ...]:
    """Directional differences agree with autograd for each clip; where they do not, each module is
    asked.
    """
    probe = _Probe.of(bench)
    names = probe.names()
    doubted = names and _doubted(replace(probe, mixed=True), names)
    return probe.findings(doubted) if doubted else ()


def _doubted(probe: _Probe, names: Sequence[str]) -> list[str]:
    """The parameters whose gradient may be wrong: all at once, and, where the output has no one
    slope along them, part by part of the network. A kink in one part then hides no other.
    """
    try:
        return [*names] if _apart(*probe.slopes(names, settled=True)).any() else []
    except Unsettled:
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(name.partition(".")[0], []).append(name)
        probe = replace(probe, directions=1)
        return [name for own in parts.values() if _apart(*probe.slopes(own)).any() for name in own]


class Unsettled(ArithmeticError):
    """There is no one slope along a direction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probe:
    """A fresh network in double precision, off its kinks, in train mode where the same seed gives the same there.

    directions: how many are looked along. mixed: all clips are one number, by weights of their own,
    which costs one pass backward: enough to tell whether anything is wrong.
    """

    bench: Bench
    network: nn.Module
    train: bool
    mixed: bool = False
    directions: int = DIRECTIONS

    @staticmethod
    def of(bench: Bench) -> _Probe:
        with in_double():
            fresh = bench.subject.fresh(
                feature_dim=bench.clips[0].features.shape[1], seed=bench.seed, size=bench.size
            )
            network = fresh.to(bench.device).double()
            _step_aside(network, bench.seed)
            for train in (True, False):
                probe = _Probe(bench=bench, network=network, train=train)
                try:
                    first, second = probe.values(), probe.values()
                except (RuntimeError, TypeError, ValueError) as error:
                    raise Unexaminable(
                        "the network does not run in double precision: "
                        f"{str(error).splitlines()[0][:100]}"
                    ) from error
                if first.dtype == torch.float64 and torch.equal(first, second):
                    return probe
        raise Unexaminable(
            "the network does not compute in double precision, or differs from call to call"
        )

    @contextmanager
    def running(self) -> Iterator[Tensor]:
        """One number a clip, (clips,): a random projection of its valid steps.

        To go backward from inside the block.
        """
        batch, subject = self.bench.batch, self.bench.subject
        with (
            in_double(),
            undisturbed(self.network, train=self.train, seed=self.bench.seed),
            torch.enable_grad(),
        ):
            log_probs, steps = subject.log_probs(
                self.network, batch.features.double(), batch.frames
            )
            inside = torch.arange(len(log_probs), device=log_probs.device)[:, None] < steps.to(
                log_probs.device
            )
            weights = torch.randn(
                log_probs.shape,
                generator=torch.Generator().manual_seed(self.bench.seed),
                dtype=torch.float64,
            )
            kept = inside[..., None] & torch.isfinite(log_probs)
            weights = weights.to(log_probs)  # a sum in double precision would hide that it is not
            values = torch.where(kept, log_probs, 0.0).mul(weights).sum((0, 2))
            yield (
                (values * (1 + torch.arange(len(values), device=values.device) / 3)).sum()[None]
                if self.mixed
                else values
            )

    def values(self) -> Tensor:
        with self.running() as values:
            return values.detach()

    def names(self) -> list[str]:
        """Parameters that are trained and have become double; complex ones do not."""
        given = {id(parameter) for _, parameter in self.bench.subject.trainable(self.network)}
        double = {
            name: p
            for name, p in self.network.named_parameters()
            if p.requires_grad and p.dtype == torch.float64
        }
        return [name for name, parameter in double.items() if id(parameter) in given]

    def slopes(self, names: Sequence[str], *, settled: bool = False) -> tuple[Tensor, Tensor]:
        """Slopes along random directions in these parameters, by autograd and by difference:
        (directions, clips) each.

        Where differences to both sides and with a smaller step are not the same, there is no one
        slope (a kink, as of a ReLU at zero; a norm over what hardly varies): what autograd says is
        then taken for it, or Unsettled raised where all must be `settled`.
        """
        parameters = {
            name: parameter for name, parameter in self.network.named_parameters() if name in names
        }
        with self.running() as values:
            gradients = [self._gradients(value, parameters) for value in values]
            here = values.detach().cpu()
        some, others = torch.stack([self._along(of, parameters) for of in gradients], 1), []
        for look, autograd in enumerate(some):
            slope = (self._shifted(look, parameters, STEP) - here) / STEP
            if _apart(autograd, slope).any():
                slope, known = self._settled(look, parameters, autograd, here)
                if settled and not known:
                    raise Unsettled
            others.append(slope)
        return some, torch.stack(others)

    def _difference(self, look: int, parameters: dict[str, nn.Parameter], step: float) -> Tensor:
        up, down = (self._shifted(look, parameters, by) for by in (step, -step))
        return (up - down) / (2 * step)

    def _settled(
        self, look: int, parameters: dict[str, nn.Parameter], autograd: Tensor, here: Tensor
    ) -> tuple[Tensor, bool]:
        """The slope of each clip at the first step at which differences to both sides and with a
        smaller step are the same; what autograd gives where there is none. And whether there always
        was one.
        """
        settled, known = autograd.clone(), torch.zeros_like(autograd, dtype=torch.bool)
        for step in STEPS:
            up, down = (self._shifted(look, parameters, by) for by in (step, -step))
            slope, finer = (up - down) / (2 * step), self._difference(look, parameters, step / 8)
            doubts = torch.stack([(up - here) / step, (here - down) / step, finer]) - slope
            sure = doubts.abs().amax(0) <= 0.2 * OFF * slope.abs() + 1e-5 * autograd.abs()
            settled = torch.where(sure & ~known, slope, settled)
            known |= sure
            if known.all():
                break
        return settled, bool(known.all())

    def _direction(
        self, look: int, parameters: dict[str, nn.Parameter]
    ) -> Iterator[tuple[str, Tensor]]:
        """A direction in each parameter, as large as it is, the same whenever it is asked for."""
        generator = torch.Generator().manual_seed(1000 * look + self.bench.seed)
        for name, parameter in parameters.items():
            # Drawing double precision takes five times as long.
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            yield name, _size(parameter) * noise.to(parameter)

    def _gradients(
        self, value: Tensor, parameters: dict[str, nn.Parameter]
    ) -> dict[str, Tensor | None]:
        """Of a clip's number, by autograd."""
        if not value.requires_grad:
            return dict.fromkeys(parameters)
        try:
            taken = torch.autograd.grad(
                value, [*parameters.values()], retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise Unexaminable(
                f"autograd refuses the gradient of one clip: {str(error).splitlines()[0][:100]}"
            ) from error
        return dict(zip(parameters, taken, strict=True))

    def _along(
        self, gradients: dict[str, Tensor | None], parameters: dict[str, nn.Parameter]
    ) -> Tensor:
        """The slope along each direction that gradients come to. (directions,)"""
        slopes = torch.zeros(self.directions, dtype=torch.float64)
        for look in range(self.directions):
            for name, direction in self._direction(look, parameters):
                gradient = gradients[name]
                slopes[look] += 0.0 if gradient is None else float((gradient * direction).sum())
        return slopes

    def _shifted(self, look: int, parameters: dict[str, nn.Parameter], by: float) -> Tensor:
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            with torch.no_grad():
                for name, direction in self._direction(look, parameters):
                    parameters[name].add_(by * direction)
            return self.values().cpu()
        finally:
            with torch.no_grad():
                for name, before in kept.items():
                    parameters[name].copy_(before)

    def findings(self, names: Sequence[str]) -> tuple[Finding, ...]:
        """The last module, in the order of the network, whose gradient is wrong; or those whose
        gradient is scaled.
        """
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.rpartition(".")[0], []).append(name)
        chosen = list(groups)[:: -(-len(groups) // MOST_MODULES)]
        wrong, scaled = {}, {}
        attached = self._attached(names)
        for module in chosen:
            own = [name for name in groups[module] if name in attached]
            if not own or self._declared(module):
                continue
            some, others = self.slopes(own)
            if not _apart(some, others).any():
                continue
            factor = float((some * others).sum() / others.square().sum().clamp(min=1e-300))
            if factor > 0 and not _apart(some.flatten(), factor * others.flatten()).any():
                scaled[module] = factor
            else:
                wrong[module] = (some, others)
        if wrong:
            return (self._wrong(wrong, [module for module in chosen if module not in wrong]),)
        return (_scaled(scaled),) if scaled else ()

    def _attached(self, names: Sequence[str]) -> set[str]:
        """Those that are part of the output's graph: the others are cut off, which has another
        name.
        """
        parameters = dict(self.network.named_parameters())
        with self.running() as values:
            if not values.requires_grad:
                return set()
            found = torch.autograd.grad(
                values.sum(), [parameters[name] for name in names], allow_unused=True
            )
        return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}

    def _declared(self, module: str) -> bool:
        """Whether a declared estimator stands at this module or behind it, so that its gradient is
        meant to differ.
        """
        declared = self.bench.subject.straight_through
        if not declared:
            return False
        calls, *_ = self.bench.passage(self.bench.clips[0].features)
        order = [call.module for call in calls]
        last = max(
            (i for i, name in enumerate(order) if any(_at_or_below(name, d) for d in declared)),
            default=-1,
        )
        place = max(
            (i for i, name in enumerate(order) if _at_or_below(name, module)), default=len(order)
        )
        return place <= last or any(_at_or_below(module, d) for d in declared)

    def _own_backwards(self) -> list[tuple[str, str]]:
        """The modules in which backward functions that are not torch's are used, in their order, the
        innermost each, and what those are called.
        """
        seen, found = set[Node](), list[tuple[str, str]]()

        def note(where: str, value: Any) -> None:
            for tensor in tensors(value):
                for node in nodes_behind(tensor) - seen:
                    seen.add(node)
                    made_by = getattr(type(node), "_forward_cls", None)
                    if made_by and not made_by.__module__.startswith("torch."):
                        found.append((where, made_by.__name__))

        with (
            watched(self.network, lambda place, _, output: note(place[0], output)),
            self.running() as values,
        ):
            note("", values)
        return found

    def _wrong(self, wrong: dict[str, tuple[Tensor, Tensor]], right: Sequence[str]) -> Finding:
        calls, *_ = self.bench.passage(self.bench.clips[0].features)
        order = {call.module: i for i, call in enumerate(calls)}
        module = max(wrong, key=lambda name: order.get(name, -1))
        some, others = wrong[module]
        made = next(
            (
                (where, what)
                for where, what in self._own_backwards()
                if order.get(where, len(order)) >= order.get(module, -1)
            ),
            None,
        )
        bad = [_apart(some[:, clip], others[:, clip]).any() for clip in range(some.shape[1])]
        names = [name for name, off in zip(self.bench.batch.names, bad, strict=True) if off]
        clip, look = (
            int(torch.tensor(bad).nonzero()[0]),
            int((some - others).abs()[:, bad].amax(1).argmax()),
        )
        silent = [
            name for i, name in enumerate(self.bench.batch.names) if bad[i] and not some[:, i].any()
        ]
        named = self.bench.batch.names[clip]
        evidence = [
            (
                f"along one direction in its parameters, {named}: autograd "
                f"{float(some[look, clip]):.3g}, difference {float(others[look, clip]):.3g}"
            ),
            f"wrong in {counted(len(wrong), 'module')}: {naming([*wrong])}"
            + (f"; right in {naming([*right])}" if right else ""),
        ]
        if silent:
            evidence.append(f"no gradient at all comes from {naming(silent)}")
        whose = f" of {naming(names)}" if len(names) < len(bad) else ""
        return FALSE_GRADIENT.finding(
            headline=f"the gradient{whose} at {module or 'the network'} is not how the output "
            "changes"
            + (f": {made[0] or 'the network'} has a backward function of its own" if made else ""),
            evidence=(*evidence, *((f"it is called {made[1]}",) if made else ())),
            module=(made[0] if made else module) or None,
            samples=tuple(names),
            try_="look behind it for hooks on gradients, and for backward functions of your own; "
            "declare an estimator that is meant to "
            "differ with Subject(straight_through=(module,))",
            status="confirmed",
        )


def _step_aside(network: nn.Module, seed: int) -> None:
    """Move each parameter by `ASIDE` of its size, or of 0.1 where it is zero, in place.

    Those of lazy layers have no shape yet, and stay.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dtype == torch.float64 and not is_lazy(parameter):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(ASIDE * _size(parameter) * noise.to(parameter.device))


def _size(parameter: Tensor) -> float:
    """Its rms, or 0.1 where it is zero."""
    return float(parameter.detach().square().mean().sqrt()) or 0.1


def _apart(some: Tensor, others: Tensor) -> Tensor:
    """Where two slopes differ by more than rounding, of their own size and of the largest one."""
    size = torch.maximum(some.abs(), others.abs())
    return (some - others).abs() > OFF * size + 1e-6 * size.max() + 1e-7


def _scaled(scaled: dict[str, float]) -> Finding:
    first, factor = next(iter(scaled.items()))
    return SCALED_GRADIENT.finding(
            headline=f"the gradient at {first or 'the network'} is {factor:.3g} times how the "
                "output changes, like that of "
        f"{counted(len(scaled) - 1, 'more module')}" if len(scaled) > 1 else "the gradient at "
        f"{first or 'the network'} is {factor:.3g} times "
        "how the output changes",
        module=first or None,
        try_="fine where a slower part is meant",
        status="confirmed",
        severity="warning",
    )  # fmt: skip


def _at_or_below(name: str, above: str) -> bool:
    return name == above or name.startswith(above + ".")


FALSE_GRADIENT = Record(
    name="false_gradient",
    stage="network",
    means="The gradient of some module or clip is not how the output changes: a hook zeroes or "
    "clamps it, a backward function is wrong, or a step "
    "has no gradient. The optimiser is led elsewhere.",
    detected="In double precision, along random directions in the parameters, central differences "
    "of the output are compared with autograd, clip by "
    "clip and module by module.",
    mend="Look behind the named module for hooks on gradients and for backward functions of your "
    "own. An estimator that is meant to differ is "
    "declared: Subject(straight_through=(module,)).",
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "carried_state",
        "random_in_eval",
        "input_ignored",
        "exploding_signal",
    ),
    remedies=(TRUE_GRADIENT, *WITHOUT_IT),
    planted=(
        "grad-silent-clip",
        "grad-wrong-backward",
        "grad-undeclared-rounding",
        "grad-half-turned",
        "grad-clamped",
    ),
)
SCALED_GRADIENT = Record(
    name="scaled_gradient",
    stage="network",
    means="The gradient of some modules is a positive multiple of how the output changes. That is "
    "a usual way of letting a part learn slower, and "
    "fails nothing.",
    detected="As false_gradient is; one factor explains all of the difference.",
    mend="Nothing, where a slower part is meant.",
    follows=("non_finite_output", "non_finite_gradient", "carried_state", "random_in_eval"),
    no_remedy="it fails nothing",
    planted=("grad-slower",),
)

TRUE_GRADIENTS = Contract(
    name="true gradients",
    holds="gradients are how the output changes",
    about="network",
    examine=gradients_are_true,
    finds=(FALSE_GRADIENT, SCALED_GRADIENT),
)
