"""The CTC module against torch's own loss, against brute force, and against constants optimised by
hand.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pytest_overfit import ctc

targets = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def torch_loss(log_probs, target, *, blank=0, reduction="none"):
    steps = torch.full((log_probs.shape[1],), len(log_probs))
    batch = torch.tensor([target] * log_probs.shape[1])
    return F.ctc_loss(
        log_probs,
        batch,
        steps,
        torch.full((log_probs.shape[1],), len(target)),
        blank=blank,
        reduction=reduction,
    )


def constant(shares, steps):
    return torch.tensor(shares, dtype=torch.float64).log().expand(steps, 1, -1)


def fits(target, path, blank=0):
    collapsed = [token for token, _ in itertools.groupby(path)]
    return [token for token in collapsed if token != blank] == list(target)


@given(targets)
def test_steps_needed_are_the_fewest_that_any_path_can_spell_the_target_in(target):
    # The first path that spells the target when blanks part only equal neighbours.
    path = [target[0]]
    for left, right in itertools.pairwise(target):
        path += [0, right] if left == right else [right]
    assert fits(target, path)
    assert ctc.steps_needed(target) == len(path)


@given(st.lists(st.integers(1, 2), min_size=1, max_size=3))
def test_no_path_is_shorter_than_the_steps_needed(target):
    shorter = itertools.product(range(3), repeat=ctc.steps_needed(target) - 1)
    assert not any(fits(target, path) for path in shorter)


@given(targets, st.integers(0, 3))
def test_torch_finds_a_path_exactly_from_the_steps_needed_on(target, more):
    needed = ctc.steps_needed(target)
    assert math.isfinite(
        torch_loss(torch.zeros(needed + more, 1, 5).log_softmax(-1), target).item()
    )
    if needed > 1:
        assert torch_loss(torch.zeros(needed - 1, 1, 5).log_softmax(-1), target).item() == math.inf


def test_repeats_count_equal_left_neighbours_only():
    assert ctc.repeats([]) == ctc.repeats([3]) == ctc.repeats([3, 4, 3]) == 0
    assert ctc.repeats([3, 3, 4, 4, 4]) == 3


@given(targets, st.integers(0, 30), st.integers(5, 1200))
def test_the_uniform_level_is_the_loss_that_torch_gives_a_uniform_output(target, more, vocabulary):
    steps = ctc.steps_needed(target) + more
    uniform = torch.full((steps, 1, vocabulary), -math.log(vocabulary), dtype=torch.float64)
    expected = torch_loss(uniform, target).item() / len(target)
    assert ctc.uniform_level(steps=steps, target=target, vocabulary=vocabulary) == pytest.approx(
        expected, rel=1e-9
    )


def test_the_uniform_level_of_the_documented_case_is_115_nats_a_token():
    assert ctc.uniform_level(steps=176, target=list(range(1, 11)), vocabulary=973) == pytest.approx(
        115.0, abs=0.05
    )


def test_the_uniform_level_is_infinite_where_no_path_exists():
    assert ctc.uniform_level(steps=2, target=[1, 1], vocabulary=5) == math.inf
    assert math.isfinite(ctc.uniform_level(steps=3, target=[1, 1], vocabulary=5))


def best_constant(target, *, steps, labels):
    """Lowest loss a token over outputs that are the same at every step and give `labels` their
    shares of what the blank leaves.
    """
    losses = []
    for blank in torch.linspace(0.5, 0.995, 400).tolist():
        shares = [blank, *((1 - blank) * share for share in labels)]
        losses.append(torch_loss(constant(shares, steps), target).item() / len(target))
    return min(losses)


@pytest.mark.parametrize(("steps", "tokens"), [(60, 4), (176, 10), (176, 5), (300, 28)])
def test_the_blank_level_is_what_the_best_constant_with_uniform_labels_reaches(steps, tokens):
    vocabulary = 973
    target = list(range(1, tokens + 1))
    numeric = best_constant(target, steps=steps, labels=[1 / (vocabulary - 1)] * (vocabulary - 1))
    assert ctc.blank_level(steps=steps, tokens=tokens, vocabulary=vocabulary) == pytest.approx(
        numeric, rel=0.01
    )


def bag_level(*, steps, tokens):
    """Loss of an output that knows which tokens a clip has and not their order: ln L + g."""
    return math.log(tokens) + ctc.alignment_cost(steps=steps, tokens=tokens)


@pytest.mark.parametrize(("steps", "tokens"), [(60, 5), (176, 10), (176, 20)])
def test_the_bag_level_is_what_the_best_constant_over_the_clips_own_tokens_reaches(steps, tokens):
    numeric = best_constant(list(range(1, tokens + 1)), steps=steps, labels=[1 / tokens] * tokens)
    level = bag_level(steps=steps, tokens=tokens)
    # The closed form forgets that a token may last several steps, which can only help.
    assert numeric <= level + 1e-6
    assert level == pytest.approx(numeric, rel=0.08)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(12, 60),
    st.integers(0, 10_000),
)
def test_no_output_that_is_the_same_at_every_step_is_better_than_the_constant_level(
    targets, steps, seed
):
    levels = ctc.constant_levels(targets, [steps] * len(targets))
    logits = 3 * torch.randn(len(targets), 5, generator=torch.Generator().manual_seed(seed))
    rows = logits.log_softmax(-1).expand(steps, -1, -1)
    lengths = torch.tensor([len(target) for target in targets])
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(target) for target in targets], batch_first=True
    )
    losses = (
        ctc.clip_losses(rows, torch.full((len(targets),), steps), padded, lengths, blank=0)
        / lengths
    )
    for target, level, loss in zip(targets, levels, losses.tolist(), strict=True):
        assert level <= loss + 0.02
        assert level <= bag_level(steps=steps, tokens=len(target)) + 0.02


def test_constant_levels_are_the_same_however_many_clips_are_sought_together(monkeypatch):
    targets, steps = [[1, 1, 2], [3, 4], [5], [2, 2, 2, 1], [1, 2, 3]], [30, 24, 20, 40, 36]
    together = ctc.constant_levels(targets, steps)
    monkeypatch.setattr(ctc, "CLIPS_AT_ONCE", 2)
    assert ctc.constant_levels(targets, steps) == pytest.approx(together, abs=1e-4)


def test_a_clip_that_mostly_repeats_one_token_is_known_for_less_than_its_bag():
    (level,) = ctc.constant_levels([[1, 1, 2, 1]], [48])
    assert level == pytest.approx(0.667, abs=2e-3)
    assert bag_level(steps=48, tokens=4) > 2 * level


def test_the_unigram_level_is_what_the_best_constant_over_a_rungs_tokens_reaches():
    rung = [[1, 2, 1, 3, 4, 1, 5, 6], [2, 7, 1, 8, 9, 3, 1, 10]]
    tokens = [token for target in rung for token in target]
    shares = [tokens.count(token) / len(tokens) for token in range(1, 11)]
    entropy = -sum(share * math.log(share) for share in shares)
    numeric = sum(best_constant(target, steps=176, labels=shares) for target in rung) / len(rung)
    assert ctc.unigram_level(steps=176, tokens=8, label_entropy=entropy) == pytest.approx(
        numeric, rel=0.03
    )


def test_the_alignment_cost_of_the_documented_case_is_a_fifth_of_a_nat():
    assert ctc.alignment_cost(steps=176, tokens=10) == pytest.approx(0.205, abs=5e-4)
    assert ctc.alignment_cost(steps=10, tokens=10) == 0.0


def test_the_levels_stand_in_the_order_in_which_a_run_passes_them():
    target = list(range(1, 11))
    uniform = ctc.uniform_level(steps=176, target=target, vocabulary=973)
    blank = ctc.blank_level(steps=176, tokens=10, vocabulary=973)
    unigram = ctc.unigram_level(steps=176, tokens=10, label_entropy=math.log(100))
    bag = bag_level(steps=176, tokens=10)
    assert uniform > blank > unigram > bag > 0


@given(st.data())
def test_clip_losses_reduce_to_what_torch_reduces_to(data):
    batch = data.draw(st.integers(1, 4))
    clips = [data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)) for _ in range(batch)]
    steps = torch.tensor([ctc.steps_needed(clip) + data.draw(st.integers(0, 5)) for clip in clips])
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = torch.full((batch, int(lengths.max())), -1)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = torch.tensor(clip)
    log_probs = torch.randn(
        int(steps.max()), batch, 6, generator=torch.Generator().manual_seed(batch)
    ).log_softmax(-1)
    losses = ctc.clip_losses(log_probs, steps, padded, lengths, blank=0)
    flat = torch.cat([torch.tensor(clip) for clip in clips])
    assert losses.sum() == pytest.approx(
        F.ctc_loss(log_probs, flat, steps, lengths, reduction="sum").item(), rel=1e-5
    )
    mean = ctc.nats_per_token(log_probs, steps, padded, lengths, blank=0)
    assert mean.item() == pytest.approx(
        F.ctc_loss(log_probs, flat, steps, lengths, reduction="mean").item(), rel=1e-5
    )


def test_a_clip_without_a_path_is_infinite_and_hides_behind_no_other():
    log_probs = torch.zeros(4, 2, 3).log_softmax(-1)
    targets = torch.tensor([[1, 2, -1], [1, 1, 1]])
    losses = ctc.clip_losses(
        log_probs, torch.tensor([4, 4]), targets, torch.tensor([2, 3]), blank=0
    )
    assert losses.isinf().tolist() == [False, True]
    assert ctc.nats_per_token(
        log_probs, torch.tensor([4, 4]), targets, torch.tensor([2, 3]), blank=0
    ).isinf()


def test_half_precision_outputs_are_summed_in_single_precision():
    log_probs = torch.randn(200, 1, 50, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    arguments = (torch.tensor([200]), torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    exact = ctc.clip_losses(log_probs, *arguments, blank=0)
    halved = ctc.clip_losses(log_probs.bfloat16(), *arguments, blank=0)
    assert halved.dtype == torch.float32
    assert halved.item() == pytest.approx(exact.item(), rel=5e-3)


@given(st.integers(0, 4), targets)
def test_the_loss_of_any_blank_is_torchs_with_that_blank(blank, target):
    target = [(token + blank) % 5 for token in target]
    log_probs = torch.randn(15, 1, 5, generator=torch.Generator().manual_seed(blank)).log_softmax(
        -1
    )
    loss = ctc.clip_losses(
        log_probs,
        torch.tensor([15]),
        torch.tensor([target]),
        torch.tensor([len(target)]),
        blank=blank,
    )
    assert loss.item() == pytest.approx(torch_loss(log_probs, target, blank=blank).item(), rel=1e-6)


def decode(path, *, blank=0, vocabulary=6):
    return ctc.greedy_decode(
        F.one_hot(torch.tensor(path), vocabulary).float()[:, None],
        torch.tensor([len(path)]),
        blank=blank,
    )[0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_greedy_decoding_collapses_first_and_drops_blanks_second(path, blank):
    expected = [token for token, _ in itertools.groupby(path) if token != blank]
    assert decode(path, blank=blank) == expected


def test_equal_tokens_survive_only_with_a_blank_between_them():
    assert decode([1, 1, 0, 1, 2, 2]) == [1, 1, 2]
    assert decode([1, 1, 1]) == [1]
    assert decode([0, 0, 0]) == []


def test_each_clip_is_decoded_up_to_its_own_steps():
    paths = torch.tensor([[1, 2, 3, 4], [1, 0, 1, 4], [5, 5, 5, 5]]).T
    decoded = ctc.greedy_decode(F.one_hot(paths, 6).float(), torch.tensor([2, 3, 0]), blank=0)
    assert decoded == [[1, 2], [1, 1], []]


@given(targets)
def test_decoding_a_path_that_aligns_the_target_gives_the_target(target):
    path = [token for label in target for token in (label, label, 0)]
    assert decode(path) == target


# -- the plateau where tokens stand by chance ------------------------------------------------------


def by_chance(target, missing, *, stretch, share=1.0):
    """Log-probabilities (steps, 1, vocabulary) of an output that is sure of all but where `missing`
    places of the target stand, float64.

    A missing token that equals its neighbour shares the neighbour's stretch, whose blanks fall by
    chance; any other falls among the blanks of a stretch of its own. share: of the best chance.
    """

    def row(*shares):
        probabilities = torch.zeros(max(target) + 1, dtype=torch.float64)
        for symbol, probability in shares:
            probabilities[symbol] += probability
        return probabilities

    rows = [row((0, 1.0))]
    for token, run in itertools.groupby(range(len(target)), key=lambda place: target[place]):
        places = list(run)
        lost = sum(place in missing for place in places)
        chance = share * lost / stretch
        if lost == len(places):
            rows += [row((token, chance), (0, 1 - chance))] * stretch
        else:
            for _ in range(len(places) - lost - 1):
                rows += [row((token, 1.0)), row((0, 1.0))]
            rows += [row((token, 1 - chance), (0, chance))] * (stretch if lost else 1)
        rows.append(row((0, 1.0)))
    return torch.stack(rows).clamp(min=1e-30).log()[:, None]


def shown(log_probs):
    return ctc.greedy_decode(log_probs, torch.tensor([len(log_probs)]), blank=0)[0]


CHANCES = [
    ([1, 1], (1,), 1 / 2),
    ([1, 2, 2, 3], (2,), 1 / 4),
    ([1, 2, 2, 3, 3], (2, 4), 2 / 5),
    ([1, 1, 1, 2], (1, 2), (2 - 2 * math.log(2) + math.log(2)) / 4),
    ([1, 2, 3, 3], (1,), 1 / 4),
    ([1, 2, 3, 3], (1, 3), 2 / 4),
]


@pytest.mark.parametrize(("target", "missing", "level"), CHANCES)
def test_tokens_by_chance_cost_what_torch_says_at_the_best_chance_and_more_at_any_other(
    target, missing, level
):
    def loss(share):
        return torch_loss(
            by_chance(target, missing, stretch=2000, share=share), target
        ).item() / len(target)

    best = by_chance(target, missing, stretch=2000)
    assert shown(best) == [token for place, token in enumerate(target) if place not in missing]
    assert ctc.chance_level(shown(best), target) == pytest.approx(level)
    assert loss(1.0) == pytest.approx(level, rel=5e-3)
    assert all(loss(share) > loss(1.0) for share in (0.5, 0.8, 1.25, 2.0))


@pytest.mark.parametrize(("target", "missing", "level"), CHANCES)
@pytest.mark.parametrize("stretch", [20, 100, 500])
def test_a_shorter_stretch_costs_less_so_that_the_level_is_what_a_long_one_comes_to(
    target, missing, level, stretch
):
    at, longer = (
        torch_loss(by_chance(target, missing, stretch=steps), target).item() / len(target)
        for steps in (stretch, 2 * stretch)
    )
    assert at < longer < level * 1.001


@pytest.mark.parametrize("stretch", [20, 80])
def test_where_a_repeat_is_merged_ctc_is_flat_and_one_path_is_not(stretch):
    log_probs = by_chance([1, 1], (1,), stretch=stretch)
    logits = log_probs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch_loss(logits.log_softmax(-1), [1, 1]).sum(), logits)
    inner = gradient[1 + stretch // 4 : 1 + 3 * stretch // 4, 0, 0]
    assert float(inner.max() - inner.min()) < 1e-6
    path = ctc.best_path(log_probs[:, 0], [1, 1], blank=0)
    logits = log_probs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        ctc.path_loss(logits.log_softmax(-1), [path], torch.tensor([1])), logits
    )
    assert float(gradient[1 : 1 + stretch, 0, 0].min()) == pytest.approx(1 / stretch - 1)


@given(targets, st.data())
def test_a_chance_level_is_told_only_of_targets_with_tokens_missing(target, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(target), max_size=len(target)))
    hypothesis = [token for token, keep in zip(target, kept, strict=True) if keep]
    level = ctc.chance_level(hypothesis, target)
    missing = len(target) - len(hypothesis)
    assert 0 <= level <= missing / len(target)
    assert (level == 0) == (missing == 0)
    assert ctc.chance_level([*hypothesis, 5], target) is None


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 2**31)
)
def test_the_best_path_is_the_likeliest_of_all_that_spell_the_target(target, more, seed):
    steps = ctc.steps_needed(target) + more
    log_probs = torch.randn(
        steps, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).log_softmax(-1)
    path = ctc.best_path(log_probs, target, blank=0)
    assert fits(target, path.tolist())

    def score(one):
        return sum(float(log_probs[step, symbol]) for step, symbol in enumerate(one))

    spelling = [one for one in itertools.product(range(4), repeat=steps) if fits(target, one)]
    assert score(path.tolist()) == pytest.approx(max(map(score, spelling)))


def test_a_path_is_not_sought_where_none_fits():
    with pytest.raises(ValueError, match="no path of 2 steps spells a target that needs 3"):
        ctc.best_path(torch.zeros(2, 4).log_softmax(-1), [1, 1], blank=0)


@given(targets, st.integers(0, 2**31))
def test_the_loss_of_one_path_is_never_below_that_of_all(target, seed):
    log_probs = torch.randn(
        ctc.steps_needed(target) + 3, 2, 5, generator=torch.Generator().manual_seed(seed)
    ).log_softmax(-1)
    lengths = torch.tensor([len(target)] * 2)
    paths = [ctc.best_path(log_probs[:, i], target, blank=0) for i in range(2)]
    whole = ctc.nats_per_token(
        log_probs, torch.tensor([len(log_probs)] * 2), torch.tensor([target] * 2), lengths, blank=0
    )
    assert ctc.path_loss(log_probs, paths, lengths) >= whole - 1e-5
