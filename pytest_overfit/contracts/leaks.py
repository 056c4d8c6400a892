"""What must hold of a network in eval mode: a clip's output is its own, whatever the seed, the batch and the padding."""

from __future__ import annotations

import torch

from pytest_overfit.contracts.bench import Bench
from pytest_overfit.contracts.passage import Call, differ, distance
from pytest_overfit.finding import Finding, counted
from pytest_overfit.subject import Batch, collate


def output_is_repeatable(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode gives the same output whatever the seed."""
    first = bench.run(bench.batch.features, bench.batch.frames, seed=1)[0]
    second = bench.run(bench.batch.features, bench.batch.frames, seed=2)[0]
    gap = distance(first.float(), second.float())
    if gap <= bench.tolerance:
        return ()
    return (
        Finding(
            name="random_in_eval",
            headline=f"the network gives another output each time in eval mode: log-probabilities differ by up to {gap:.2g}",
            try_="tie dropout and other noise to self.training",
            status="confirmed",
        ),
    )


def clips_are_independent(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode: a clip's output does not depend on its batch mates; nor where there are as many steps as clips."""
    for batch in (bench.batch, _square(bench)):
        if batch is None or len(batch) < 2:
            continue
        together, steps = bench.run(batch.features, batch.frames)
        for row, name in enumerate(batch.names):
            alone, own = bench.run(batch.features[row : row + 1], batch.frames[row : row + 1])
            valid = min(int(steps[row]), int(own[0]))
            gap = distance(together[:valid, row].float(), alone[:valid, 0].float())
            if gap > bench.tolerance:
                return (_batch_leak(bench, name, gap),)
    return ()


def _batch_leak(bench: Bench, name: str, gap: float) -> Finding:
    return Finding(
        name="batch_leak",
        headline=f"in eval mode the output of {name} depends on the clips beside it",
        evidence=(f"log-probabilities differ by up to {gap:.2g} between the clip alone and in a batch; rounding explains {bench.tolerance:.1g}",),
        samples=(name,),
        try_="look for swapped time and batch axes (batch_first), and for statistics taken over the batch in eval mode",
        status="confirmed",
    )


def _square(bench: Bench) -> Batch | None:
    """As many clips as steps, where cutting the clips makes it so: a swap of time and batch fits in shape."""
    count = len(bench.clips)
    shortest = min(clip.frames for clip in bench.clips)
    per_step = bench.batch.features.shape[1] / max(len(bench.outputs[0]), 1)
    frames = min(max(round(count * per_step), 1), shortest)
    features = bench.batch.features[:, :frames]
    if not bench.takes(frames):
        return None
    output, _ = bench.run(features[:1], torch.tensor([frames]))
    whole = collate(bench.clips).to(bench.device)
    cut = Batch(names=whole.names, features=features, frames=torch.full((count,), frames), targets=whole.targets, target_lengths=whole.target_lengths)
    return cut if len(output) == count else None


def padding_is_ignored(bench: Bench) -> tuple[Finding, ...]:
    """Eval mode: zeros behind a clip, as longer batch mates bring them, leave its output as it is. Held where all clips are of one length."""
    if len({sample.frames for sample in bench.samples}) == 1:
        return ()
    for clip in bench.clips[-2:]:
        length = max(clip.frames + clip.frames // 4 + 1, bench.clips[0].frames)
        if not bench.takes(length):
            continue
        alone, steps = bench.alone(clip.features)
        padded, among = bench.alone(clip.features, padded_to=length)
        valid = min(int(steps[0]), int(among[0]), len(alone))
        gap = (alone[:valid].float() - padded[:valid].float()).abs().amax(dim=(1, 2))
        if gap.max() > bench.tolerance:
            calls, *_ = bench.passage(clip.features)
            others, *_ = bench.passage(clip.features, padded_to=length)
            changed = counted(int((gap > bench.tolerance).sum()), "step")
            return (_padding_leak(clip.name, f"{changed} of {valid} change by up to {float(gap.max()):.2g}", _first_apart(calls, others, bench)),)
    return ()


def _first_apart(calls: list[Call], others: list[Call], bench: Bench) -> str | None:
    """The first module that gives something else where it was given the same."""
    for call, other in zip(calls, others, strict=False):
        if call.outputs and call.outputs[0].ndim > 1 and differ(call.outputs[:1], other.outputs[:1]):
            size = float(call.outputs[0].abs().max())
            if distance(call.outputs[0], other.outputs[0]) > 1e-4 * size:
                return call.module
    return None


def _padding_leak(name: str, evidence: str, module: str | None) -> Finding:
    return Finding(
        name="padding_leak",
        headline=f"the output of {name} depends on the padding behind it" + (f", first in {module}" if module else ""),
        evidence=(evidence,),
        module=module,
        samples=(name,),
        try_="mask what stands past each clip's frames: packed sequences, key_padding_mask, zeros before every convolution",
        status="confirmed",
    )
