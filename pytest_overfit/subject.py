"""What is under test: a `Subject` says how to build a network and what to feed it; a `Sample` is
one clip with its target.

A foreign network needs no subclass of ours. One that maps features (batch, frames, dim) and frames
(batch,) to log-probabilities (steps, batch, vocabulary) and steps (batch,) fits as it is; any other
says so in `forward`, `outputs` and `layout`:

    Subject(name="gru", build=lambda vocab_size, feature_dim, seed: GRU(feature_dim, vocab_size),
    samples=clips,
            vocabulary=("<blank>", "HELLO", "WORLD"))
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pytest_overfit import ctc
from pytest_overfit.refused import BadSample as BadSample
from pytest_overfit.refused import BadSubject as BadSubject
from pytest_overfit.refused import TooFewSamples as TooFewSamples
from pytest_overfit.spilled import kept

if TYPE_CHECKING:
    from pytest_overfit.findings.record import Contract
    from pytest_overfit.loop.loop import Loop
    from pytest_overfit.recipe import Recipe

Forward = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Decode = Callable[[Tensor, Tensor], list[list[int]]]
Trainable = Callable[[nn.Module], Iterable[tuple[str, nn.Parameter]]]


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One feature sequence and the tokens it stands for.

    features: (frames, dim) floating point. target: (tokens,) int64, without blanks. Arrays of numpy
    are taken too.
    """

    name: str
    features: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        for field_name in ("features", "target"):
            if (
                isinstance(value := getattr(self, field_name), np.ndarray)
                and value.dtype.kind in "fiu"
            ):
                object.__setattr__(self, field_name, torch.from_numpy(value))
        if isinstance(self.features, Tensor) and self.features.ndim > 2:
            raise BadSample(
                f"sample {self.name}: features must be (frames, dim), got {_kind(self.features)}: "
                "put time first, flatten the rest "
                f"with features.flatten(1), and undo it in Subject(forward=...)"
            )
        if (
            not isinstance(self.features, Tensor)
            or self.features.ndim != 2
            or not self.features.is_floating_point()
        ):
            raise BadSample(
                f"sample {self.name}: features must be a float tensor (frames, dim), got "
                f"{_kind(self.features)}"
            )
        if (
            not isinstance(self.target, Tensor)
            or self.target.ndim != 1
            or self.target.is_floating_point()
        ):
            raise BadSample(
                f"sample {self.name}: target must be an integer tensor (tokens,), got "
                f"{_kind(self.target)}"
            )

    @property
    def frames(self) -> int:
        """Length in frames."""
        return self.features.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples padded to one length.

    features: (batch, frames, dim), zero past each clip's end. frames: (batch,) int64. targets:
    (batch, tokens) int64, padded with -1, which no loss accepts as a label. target_lengths:
    (batch,) int64.
    """

    names: tuple[str, ...]
    features: Tensor
    frames: Tensor
    targets: Tensor
    target_lengths: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with features and frames on `device`; targets stay on the CPU, where CTC
        reads them.
        """
        return replace(self, features=self.features.to(device), frames=self.frames.to(device))

    def target_lists(self) -> list[list[int]]:
        """The targets without their padding."""
        return [
            row[:length]
            for row, length in zip(self.targets.tolist(), self.target_lengths.tolist(), strict=True)
        ]


def _hidden_mode(network: nn.Module) -> str | None:
    """In words, that a module has a `train` or `eval` of its own by which no mode can be set."""
    for module in network.modules():
        for mode, given in (("train", (True,)), ("eval", ())):
            own = getattr(type(module), mode)
            if own is getattr(nn.Module, mode):
                continue
            signature = inspect.signature(own)
            try:
                signature.bind(module, *given)
            except TypeError:
                name = type(module).__name__
                return (
                    f"{name}.{mode}{signature} hides torch's nn.Module.{mode}, by which the network is "
                    "put into train and eval mode: give it another name"
                )
    return None


def _kind(value: object) -> str:
    return (
        f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad `samples` into one batch. Raises BadSample where their feature widths differ."""
    first = samples[0]
    for sample in samples:
        if sample.features.shape[1] != first.features.shape[1]:
            advice = (
                "they look like (dim, frames): give (frames, dim)"
                if look_transposed(samples)
                else "use one layout"
            )
            raise BadSample(
                f"sample {sample.name} has features {sample.features.shape[1]} wide, "
                f"{first.name} has {first.features.shape[1]}: {advice}"
            )
    return Batch(
        names=tuple(sample.name for sample in samples),
        features=pad_sequence([sample.features for sample in samples], batch_first=True),
        frames=torch.tensor([sample.frames for sample in samples]),
        targets=pad_sequence(
            [sample.target.long() for sample in samples], batch_first=True, padding_value=-1
        ),
        target_lengths=torch.tensor([len(sample.target) for sample in samples]),
    )


def look_transposed(samples: Sequence[Sample]) -> bool:
    """Whether the samples have one number of frames and many widths, as features (dim, frames)
    do.
    """
    lengths, widths = (
        {sample.features.shape[0] for sample in samples},
        {sample.features.shape[1] for sample in samples},
    )
    return len(lengths) == 1 < len(widths)


def call_network(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The default forward adapter: the network takes (features, frames) and returns (output,
    steps).
    """
    returned: tuple[Tensor, Tensor] = network(features, frames)
    return returned


def in_precision_of(network: nn.Module, features: Tensor) -> Tensor:
    """Features as numbers of the kind that all of the network's weights are of, where they are of
    one.
    """
    kinds = {weight.dtype for weight in network.parameters() if weight.is_floating_point()}
    return features.to(kinds.pop()) if len(kinds) == 1 else features


def takes_frames(network: nn.Module) -> bool:
    """Whether the network's forward can be called with features and frames."""
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it has no signature, as scripted networks
        return True
    return True


def _in_our_order(criterion: nn.CTCLoss) -> Loss:
    """`nn.CTCLoss` takes (log_probs, targets, input_lengths, target_lengths)."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        value: Tensor = criterion(log_probs, targets, steps, target_lengths)
        return value

    return loss


def all_parameters(network: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """The default of what the optimiser is given: every parameter that requires a gradient."""
    return (
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is under test.

    build:      (vocab_size, feature_dim, seed) -> a fresh network; those of the three that it does
    not take are left out, and under other
                names it is called with all three in this order. The global generators of torch,
                numpy and Python are seeded before the call. Where a recipe or a size sets keywords
                such as hidden_dim or dropout, those that `build` accepts are passed too.
    samples:    the samples, or n -> the first n of them (at least; fewer only where there are no
                more).
    vocabulary: token names by id, the blank included.
    forward:    (network, features (B, T, F), frames (B,)) -> output, steps (B,) int64.
    outputs, layout: what `forward` returns: "log_probs" or "logits", axes "TBV" or "BTV".
    loss:       (log_probs (T, B, V), steps (B,), targets (B, L), target_lengths (B,)) -> scalar;
                default CTC as the recipe says. An
                nn.CTCLoss is called in its own order.
    decode:     (log_probs (T, B, V), steps (B,)) -> token ids of each clip; default greedy.
    trainable:  network -> named parameters for the optimiser; default all that require a gradient.
    recipes:    rung size -> Recipe, where the default recipes do not suit.
    sizes:      name -> keywords for `build`; the first is the default, --overfit-size picks
                another.
    variants:   keyword of `build` -> the values that a search of recipes may choose, such as
                {"hidden_dim": (64, 128), "dropout": (0.0, 0.1)}.
    parts:      body or input parts -> feature columns, for the controls that silence one part.
    tokens_a_step: how many tokens one step at the network's narrowest point may stand for, where a
    learned upsampling unrolls it.
    contracts: more that must hold before any training, which only who made the samples can know.
    straight_through: modules whose gradient is meant to differ from how the output changes: what
    passes through a rounding.
    loop:       the user's own training, which is then what climbs; default the engine's, as the
                recipe says.
    accept:     finding -> why it is meant to be so; it is shown and fails nothing, and one that is
                no longer found is told.
    """

    name: str
    build: Callable[..., nn.Module]
    samples: Sequence[Sample] | Callable[[int], Sequence[Sample]]
    vocabulary: Sequence[str]
    blank: int = 0
    forward: Forward = call_network
    outputs: Literal["log_probs", "logits"] = "log_probs"
    layout: Literal["TBV", "BTV"] = "TBV"
    loss: Loss | None = None
    decode: Decode | None = None
    trainable: Trainable = all_parameters
    recipes: Mapping[int, Recipe] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variants: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    parts: Mapping[str, slice] = field(default_factory=dict)
    tokens_a_step: int = 1
    contracts: Sequence[Contract] = ()
    straight_through: Sequence[str] = ()
    accept: Mapping[str, str] = field(default_factory=dict)
    loop: Loop | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.vocabulary):
            raise BadSubject(
                f"subject {self.name}: blank {self.blank} is outside its vocabulary of "
                f"{len(self.vocabulary)}"
            )
        if self.outputs not in ("log_probs", "logits"):
            raise BadSubject(
                f"subject {self.name}: outputs must be 'log_probs' or 'logits', got "
                f"{self.outputs!r}"
            )
        if self.layout not in ("TBV", "BTV"):
            raise BadSubject(
                f"subject {self.name}: layout must be 'TBV' or 'BTV', got {self.layout!r}"
            )
        if isinstance(self.build, nn.Module) or not callable(self.build):
            kind = type(self.build).__name__
            raise BadSubject(
                f"subject {self.name}: build must be a function that makes a fresh network, got a "
                f"{kind}: "
                f"build=lambda vocab_size, feature_dim, seed: {kind}(...)"
            )
        if isinstance(self.loss, nn.CTCLoss):
            object.__setattr__(self, "loss", _in_our_order(self.loss))
        self._check_accept()
        self._check_variants()

    def _check_variants(self) -> None:
        for keyword, values in self.variants.items():
            named = f"subject {self.name}: variants[{keyword!r}]"
            if keyword not in self.accepted({keyword: None}):
                raise BadSubject(f"{named} is no argument of its build")
            plain = isinstance(values, list | tuple) and len(values) > 0
            if not plain or not all(isinstance(one, str | int | float | None) for one in values):
                raise BadSubject(f"{named} must list numbers, words or None, got {values!r}")

    def _check_accept(self) -> None:
        if not isinstance(self.accept, Mapping):
            raise BadSubject(
                f"subject {self.name}: accept must map findings to reasons, got "
                f"{_kind(self.accept)}"
            )
        for finding, reason in self.accept.items():
            if not isinstance(reason, str) or not reason.strip():
                raise BadSubject(
                    f"subject {self.name}: accept[{finding!r}] needs a reason in words, got "
                    f"{reason!r}"
                )

    def offered(self, n: int) -> Sequence[Sample]:
        """The first `n` samples or fewer, unchecked."""
        return (self.samples(n) if callable(self.samples) else self.samples)[:n]

    def take(self, n: int) -> Sequence[Sample]:
        """The first `n` samples, checked; those of more than `KEPT_BYTES` lie in a temporary file.

        Raises TooFewSamples where there are fewer, BadSubject where there is none, BadSample where
        one cannot be trained on.
        """
        samples = self.offered(n)
        if not len(samples):
            raise BadSubject(f"subject {self.name} has no samples")
        if len(samples) < n:
            raise TooFewSamples(
                f"subject {self.name} has {len(samples)} samples, a rung of {n} was asked for",
                len(samples),
            )
        return kept(self._checked(sample) for sample in samples[:n])

    def _checked(self, sample: Sample) -> Sample:
        labels = sample.target.tolist()
        if not labels:
            raise BadSample(f"sample {sample.name}: its target is empty")
        if self.blank in labels:
            raise BadSample(
                f"sample {sample.name}: its target holds the blank ({self.blank}) at position "
                f"{labels.index(self.blank)}"
            )
        outside = [label for label in labels if not 0 <= label < len(self.vocabulary)]
        if outside:
            raise BadSample(
                f"sample {sample.name}: label {outside[0]} is outside the vocabulary of "
                f"{len(self.vocabulary)}"
            )
        if not torch.isfinite(sample.features).all():
            frame, column = (~torch.isfinite(sample.features)).nonzero()[0].tolist()
            raise BadSample(
                f"sample {sample.name}: features are not finite, first at frame {frame}, "
                f"column {column}"
            )
        return sample

    def fresh(
        self,
        *,
        feature_dim: int,
        seed: int,
        size: str | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """A newly initialised network.

        `network`: keywords of the recipe; those that `build` does not take are left out.
        """
        keywords = {**self.size_keywords(size), **(network or {})}
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        given = {"vocab_size": len(self.vocabulary), "feature_dim": feature_dim, "seed": seed}
        needed = [
            p.name
            for p in inspect.signature(self.build).parameters.values()
            if p.default is p.empty and p.kind not in _REST
        ]
        own_names = len(needed) == 3 and not set(needed) & set(given)
        if not own_names and set(needed) - {*given, *keywords}:
            raise BadSubject(
                f"subject {self.name}: build takes {' and '.join(needed)}, and is called with "
                "vocab_size, feature_dim and seed: "
                f"name them so, or take all three in this order"
            )
        network_ = (
            self.build(*given.values())
            if own_names
            else self.build(**self.accepted({**given, **keywords}))
        )
        if not isinstance(network_, nn.Module):
            raise BadSubject(
                f"subject {self.name}: build must return a torch.nn.Module, got {_kind(network_)}"
            )
        if hidden := _hidden_mode(network_):
            raise BadSubject(f"subject {self.name}: {hidden}")
        return network_

    def size_keywords(self, size: str | None) -> Mapping[str, Any]:
        """What `build` is given for a size, the first where none is named.

        Raises BadSubject where the subject has no such size.
        """
        if size is None:
            return next(iter(self.sizes.values()), {})
        if size not in self.sizes:
            raise BadSubject(
                f"subject {self.name} has no size {size!r}; it has "
                f"{', '.join(self.sizes) or 'none'}"
            )
        return self.sizes[size]

    def accepted(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `keywords` that `build` accepts."""
        parameters = inspect.signature(self.build).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return dict(keywords)
        return {name: value for name, value in keywords.items() if name in parameters}

    def own_loss(
        self, log_probs: Tensor, steps: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        """The subject's own loss of a batch; arguments as those of `loss`.

        Raises BadSubject where it has none.
        """
        if self.loss is None:
            raise BadSubject(f"subject {self.name} has no loss of its own")
        return self.loss(log_probs, steps, targets, target_lengths)

    def decoded(self, log_probs: Tensor, steps: Tensor) -> list[list[int]]:
        """Token ids of each clip, by the subject's decoder or the greedy one, as plain numbers: a
        decoder may yield tensors.

        log_probs: (steps, batch, vocabulary). steps: (batch,). Raises BadSubject where a decoder
        returns no tokens.
        """
        decoded = (
            self.decode(log_probs, steps)
            if self.decode
            else ctc.greedy_decode(log_probs, steps, blank=self.blank)
        )
        try:
            return [[int(token) for token in tokens] for tokens in decoded]
        except (TypeError, ValueError) as error:
            raise BadSubject(
                f"subject {self.name}: decode must return the token ids of each clip, a list "
                f"of lists, got {_kind(decoded)}"
            ) from error

    def log_probs(
        self, network: nn.Module, features: Tensor, frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the network, on features of its own precision. Returns log-probabilities (steps, batch,
        vocabulary) and steps (batch,).

        Raises BadSubject on another shape.
        """
        if self.forward is call_network and not takes_frames(network):
            raise BadSubject(
                f"subject {self.name}: forward of {type(network).__name__} takes no frames: give "
                "Subject(forward=lambda network, features, frames: (network(features), steps)) "
                "with the steps of each clip's output"
            )
        # A copy: what a network writes into its input must not reach the next step.
        given = in_precision_of(network, features)
        returned = self.forward(network, given.clone() if given is features else given, frames)
        if (
            not isinstance(returned, tuple | list)
            or len(returned) != 2
            or not isinstance(returned[0], Tensor)
        ):
            raise BadSubject(
                f"subject {self.name}: forward must return output and steps, got "
                f"{_kind(returned)}: give Subject(forward=...) that "
                "returns (output, steps), where steps is frames if the network keeps the number "
                "of frames"
            )
        output, steps = returned
        if isinstance(steps, list | tuple | np.ndarray):
            steps = torch.as_tensor(steps)
        if (
            not isinstance(steps, Tensor)
            or steps.is_floating_point()
            or steps.shape != (len(features),)
        ):
            raise BadSubject(
                f"subject {self.name}: steps must be an integer tensor of {len(features)}, got "
                f"{_kind(steps)}"
            )
        if self.layout == "BTV":
            output = output.transpose(0, 1)
        if output.ndim != 3 or output.shape[1:] != (len(features), len(self.vocabulary)):
            other = "TBV" if self.layout == "BTV" else "BTV"
            swapped = output.ndim == 3 and (output.shape[0], output.shape[2]) == (
                len(features),
                len(self.vocabulary),
            )
            raise BadSubject(
                f"subject {self.name}: forward gave {tuple(output.shape)}, expected (steps, "
                f"{len(features)}, {len(self.vocabulary)}) "
                f"after reading its layout as {self.layout}"
                + (f": try Subject(layout={other!r})" if swapped else "")
            )
        return (output.log_softmax(-1) if self.outputs == "logits" else output), steps
