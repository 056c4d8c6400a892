"""Training: equal runs are equal bit by bit, and equal to a loop written by hand; what it cannot do
it says.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_overfit import Recipe, Sample, Subject
from pytest_overfit.ctc import clip_losses
from pytest_overfit.recipe import BadRecipe
from pytest_overfit.subject import collate
from pytest_overfit.training import (
    NonFiniteLoss,
    Training,
    keep_up_norms,
    make_optimizer,
    select,
    smoothing,
)

VOCABULARY = tuple("-ABCDEF")


class Convolutions(nn.Module):
    def __init__(self, feature_dim, vocab_size, hidden=8, dropout=0.0, norm=True):
        super().__init__()
        self.first = nn.Conv1d(feature_dim, hidden, 3, padding=1)
        self.norm = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocab_size)

    def forward(self, features, frames):
        hidden = self.drop(self.norm(self.first(features.transpose(1, 2))).relu().transpose(1, 2))
        return self.head(hidden).log_softmax(-1).transpose(0, 1), frames


def clips(count, *, equal=False):
    generator = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        tokens = torch.randint(1, 7, (3 if equal else 2 + i % 3,), generator=generator)
        made.append(
            Sample(
                name=f"c{i}",
                features=torch.randn(
                    20 if equal else 20 + 3 * (i % 4) + i // 8, 5, generator=generator
                ),
                target=tokens,
            )
        )
    return made


def subject(**changes):
    fields = {
        "name": "toy",
        "build": lambda vocab_size, feature_dim, seed: Convolutions(feature_dim, vocab_size),
        "vocabulary": VOCABULARY,
    }
    return Subject(**{**fields, "samples": clips(12), **changes})


def built(**keywords):
    return lambda vocab_size, feature_dim, seed: Convolutions(feature_dim, vocab_size, **keywords)


def run(recipe, *, steps=8, samples=None, seed=0, **changes):
    training = Training(subject(**changes), samples or clips(6), recipe, seed=seed)
    return training, list(training.advance(steps))


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), Recipe(batch=2, accumulation=2), Recipe(optimizer="sgd", momentum=0.9, batch=4)],
)
def test_the_same_seed_gives_the_same_run_bit_by_bit(recipe):
    dropout = {"build": built(dropout=0.5)}
    first, again = run(recipe, **dropout), run(recipe, **dropout)
    assert first[1] == again[1]
    assert first[0].trace.gradient_norms == again[0].trace.gradient_norms
    assert all(
        torch.equal(a, b)
        for a, b in zip(first[0].network.parameters(), again[0].network.parameters(), strict=True)
    )
    assert first[0].read() == again[0].read()


def test_another_seed_gives_another_run():
    assert run(Recipe(), seed=0)[1] != run(Recipe(), seed=1)[1]


def test_another_seed_takes_the_samples_in_another_order():
    fixed = {
        "build": lambda vocab_size, feature_dim, seed: (
            torch.manual_seed(0) and Convolutions(feature_dim, vocab_size)
        )
    }
    assert run(Recipe(batch=2), seed=0, **fixed)[1] != run(Recipe(batch=2), seed=1, **fixed)[1]
    assert run(Recipe(), seed=0, **fixed)[1] == run(Recipe(), seed=1, **fixed)[1]


def test_what_was_drawn_at_random_before_does_not_matter():
    first = run(Recipe(batch=2), build=built(dropout=0.5))[1]
    torch.rand(17)
    assert run(Recipe(batch=2), build=built(dropout=0.5))[1] == first


def test_a_network_that_draws_from_numpy_or_python_repeats_its_run_too():
    class Masks(Convolutions):
        def forward(self, features, frames):
            return super().forward(
                features * float(np.random.rand() > 0.2) + random.random(), frames
            )

    drawing = {"build": lambda vocab_size, feature_dim, seed: Masks(feature_dim, vocab_size)}
    first = run(Recipe(), **drawing)[1]
    random.random()
    assert run(Recipe(), **drawing)[1] == first


def test_reading_leaves_the_run_as_it_is():
    read_between, plain = (
        Training(subject(), clips(6), Recipe(batch=2), seed=0),
        Training(subject(), clips(6), Recipe(batch=2), seed=0),
    )
    losses = []
    for loss in read_between.advance(8):
        losses.append(loss)
        read_between.read()
    assert losses == list(plain.advance(8))


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [
        (
            Recipe(lr=5e-3, warmup=3),
            lambda parameters: torch.optim.Adam(parameters, lr=5e-3, betas=(0.9, 0.95)),
        ),
        (
            Recipe(optimizer="adamw", lr=1e-2, weight_decay=0.1, warmup=0),
            lambda parameters: torch.optim.AdamW(
                parameters, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1
            ),
        ),
        (
            Recipe(optimizer="sgd", lr=0.1, momentum=0.9, clip=0.5, warmup=0),
            lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        ),
    ],
)
def test_a_loop_written_by_hand_takes_the_same_steps(recipe, optimizer):
    samples = clips(6)
    _, losses = run(recipe, steps=10, samples=samples)
    torch.manual_seed(0)
    network = Convolutions(5, 7)
    network.norm.momentum = 0.3
    by_hand = optimizer(network.parameters())
    peak = by_hand.param_groups[0]["lr"]
    features = nn.utils.rnn.pad_sequence([s.features for s in samples], batch_first=True)
    targets = torch.cat([s.target for s in samples])
    frames, lengths = (
        torch.tensor([s.frames for s in samples]),
        torch.tensor([len(s.target) for s in samples]),
    )
    expected = []
    for step in range(10):
        by_hand.param_groups[0]["lr"] = peak * min((step + 1) / max(recipe.warmup, 1), 1)
        by_hand.zero_grad()
        loss = F.ctc_loss(network(features, frames)[0], targets, frames, lengths)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        by_hand.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)


def gradients(training):
    return [parameter.grad.clone() for parameter in training.parameters]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_give_the_gradient_and_the_loss_of_one_big_batch(reduction):
    whole = Recipe(clip=None, reduction=reduction)
    plain = {"build": built(norm=False), "samples": clips(8, equal=True)}
    big, big_losses = run(whole, steps=1, **plain)
    small, small_losses = run(replace(whole, batch=2, accumulation=4), steps=1, **plain)
    assert small_losses == pytest.approx(big_losses, rel=1e-5)
    for one, other in zip(gradients(big), gradients(small), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_each_pass_takes_every_sample_once():
    seen = []

    def spy(network, features, frames):
        seen.extend(features[:, 0, 0].tolist())
        return network(features, frames)

    samples = clips(7)
    run(Recipe(batch=3), steps=6, samples=samples, forward=spy)
    one_pass = sorted(sample.features[0, 0].item() for sample in samples)
    assert sorted(seen[:7]) == sorted(seen[7:]) == pytest.approx(one_pass)
    assert seen[:7] != seen[7:]


def test_the_mean_reduction_is_torchs_and_the_sum_is_nats_of_the_batch():
    training, _ = run(Recipe(), steps=0)
    batch = collate(clips(6))
    log_probs, steps = training.network(batch.features, batch.frames)
    losses = clip_losses(log_probs, steps, batch.targets, batch.target_lengths, blank=0)
    assert training.loss(batch).item() == pytest.approx(
        (losses / batch.target_lengths).mean().item(), rel=1e-5
    )
    training.recipe = Recipe(reduction="sum")
    assert training.loss(batch).item() == pytest.approx(losses.sum().item(), rel=1e-5)


def test_label_smoothing_is_the_divergence_from_uniform_and_its_gradient_is_the_formulas():
    batch = collate(clips(3))
    logits = torch.randn(
        int(batch.frames.max()),
        3,
        7,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
        requires_grad=True,
    )
    log_probs = logits.log_softmax(-1)
    value = smoothing(log_probs, batch, batch.frames, Recipe(reduction="sum"))
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    by_hand = sum(
        F.kl_div(log_probs[:steps, clip], uniform.expand(steps, -1), reduction="sum")
        for clip, steps in enumerate(batch.frames.tolist())
    )
    assert value.item() == pytest.approx(by_hand.item())
    # d KL(u || softmax(z)) / dz = softmax(z) - u, and nothing flows into padding.
    (gradient,) = torch.autograd.grad(value, logits)
    inside = torch.arange(len(logits))[:, None] < batch.frames
    torch.testing.assert_close(gradient, (logits.softmax(-1) - uniform) * inside[..., None])
    # The mean is of nats per target token, as the loss's is.
    alone = [
        smoothing(
            log_probs[:, [i]],
            select(batch, torch.tensor([i])),
            batch.frames[[i]],
            Recipe(reduction="sum"),
        )
        for i in range(3)
    ]
    expected = (torch.stack(alone) / batch.target_lengths).mean().item()
    assert smoothing(log_probs, batch, batch.frames, Recipe()).item() == pytest.approx(expected)


def test_label_smoothing_mixes_loss_and_divergence_by_its_weight():
    training, _ = run(Recipe(label_smoothing=0.25), steps=0)
    batch = collate(clips(6))
    log_probs, steps = training.network(batch.features, batch.frames)
    plain = (
        clip_losses(log_probs, steps, batch.targets, batch.target_lengths, blank=0)
        / batch.target_lengths
    ).mean()
    expected = 0.75 * plain + 0.25 * smoothing(log_probs, batch, steps, training.recipe)
    assert training.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_is_clipped_to_the_recipes_norm_and_recorded_before():
    training, _ = run(Recipe(clip=1e-3, optimizer="sgd", lr=1.0, warmup=0, momentum=0.0), steps=0)
    before = [parameter.detach().clone() for parameter in training.parameters]
    list(training.advance(1))
    moved = math.sqrt(
        sum(
            float((a - b).square().sum())
            for a, b in zip(before, (p.detach() for p in training.parameters), strict=True)
        )
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert training.trace.gradient_norms[0] > 1e-3


@pytest.mark.exact_weights
def test_layers_learn_at_their_own_rate_and_warm_up_with_the_rest():
    training, _ = run(Recipe(lr=0.1, warmup=4, layer_lr={"head": 0.5, "first": 0.0}), steps=2)
    rates = {group["peak_lr"]: group["lr"] for group in training.optimizer.param_groups}
    assert rates == pytest.approx({0.1: 0.05, 0.05: 0.025, 0.0: 0.0})
    assert training.trace.lrs == pytest.approx([0.025, 0.05])
    fresh = training.subject.fresh(feature_dim=5, seed=0)
    assert torch.equal(training.network.first.weight, fresh.first.weight)


def test_a_prefix_that_names_no_parameter_is_turned_away():
    with pytest.raises(BadRecipe, match="recipe: layer_lr 'heads' matches no parameter of toy"):
        run(Recipe(layer_lr={"heads": 0.5}), steps=0)


def test_only_what_the_subject_trains_is_trained():
    training, _ = run(
        Recipe(warmup=0), steps=2, trainable=lambda network: network.head.named_parameters()
    )
    fresh = training.subject.fresh(feature_dim=5, seed=0)
    assert torch.equal(training.network.first.weight, fresh.first.weight)
    assert not torch.equal(training.network.head.weight, fresh.head.weight)


def test_nothing_to_train_is_said_to_be_so():
    with pytest.raises(
        ValueError, match="subject toy: nothing to train: no parameter was given to the optimiser"
    ):
        run(Recipe(), steps=0, trainable=lambda network: [])


def test_a_loss_that_is_not_finite_names_step_and_samples():
    samples = clips(4)

    def breaks_on_c2(network, features, frames):
        output, steps = network(features, frames)
        broken = (features[:, 0, 0] == samples[2].features[0, 0]).to(output)
        return output + (broken * math.nan if broken.any() else broken)[None, :, None].where(
            broken[None, :, None] > 0, 0.0
        ), steps

    with pytest.raises(
        NonFiniteLoss, match=r"^the loss is nan at step 0 \(samples c2\)$"
    ) as caught:
        run(Recipe(), samples=samples, forward=breaks_on_c2)
    assert (caught.value.step, caught.value.samples) == (0, ("c2",))


def test_a_clip_that_ctc_cannot_align_is_named_and_not_skipped():
    samples = [
        *clips(3),
        Sample(name="short", features=torch.ones(2, 5), target=torch.tensor([1, 1, 2])),
    ]
    with pytest.raises(NonFiniteLoss, match=r"the loss is inf at step 0 \(samples short\)"):
        run(Recipe(), samples=samples)


def test_a_gradient_that_is_not_finite_is_not_called_a_loss():
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value

        @staticmethod
        def backward(context, gradient):
            return gradient * math.inf

    def explodes(network, features, frames):
        output, steps = network(features, frames)
        return Root.apply(output), steps

    with pytest.raises(NonFiniteLoss, match=r"^the gradient norm is (nan|inf) at step 0$"):
        run(Recipe(), forward=explodes)


def test_many_bad_samples_are_counted():
    error = NonFiniteLoss(step=3, value=math.inf, samples=tuple("abcdefg"))
    assert str(error) == "the loss is inf at step 3 (samples a, b, c, d, e and 2 more)"


def test_a_subjects_own_loss_and_decoder_are_used():
    calls = []

    def loss(log_probs, steps, targets, target_lengths):
        calls.append(tuple(targets.shape))
        return -log_probs.mean()

    training, losses = run(
        Recipe(), steps=2, loss=loss, decode=lambda log_probs, steps: [[1]] * log_probs.shape[1]
    )
    assert calls == [(6, 4)] * 2
    reading = training.read()
    assert reading.emission_ratio == pytest.approx(6 / sum(len(clip.target) for clip in clips(6)))
    # The loss of a reading is CTC in nats per token, whatever was trained on.
    assert losses[-1] < 3 < reading.loss


def test_a_decoder_that_returns_tensors_is_read_as_its_tokens():
    samples = clips(4)
    right = [sample.target for sample in samples]
    training, _ = run(Recipe(), steps=0, samples=samples, decode=lambda log_probs, steps: right)
    assert training.read().token_error_rate == 0.0


def test_readings_are_taken_in_eval_mode_without_gradients_and_training_goes_on_in_train_mode():
    modes = []

    def spy(network, features, frames):
        modes.append((network.training, torch.is_grad_enabled()))
        return network(features, frames)

    training = Training(subject(forward=spy), clips(4), Recipe(), seed=0)
    list(training.advance(1))
    training.read()
    list(training.advance(1))
    assert modes == [(True, True), (False, False), (True, True)]


def test_what_a_reading_heard_is_heard_again_only_after_a_step():
    passes = []

    def spy(network, features, frames):
        passes.append(network.training)
        return network(features, frames)

    training = Training(subject(forward=spy), clips(4), Recipe(), seed=0)
    list(training.advance(3))
    training.read()
    before = len(passes)
    heard = training.hypotheses()
    assert len(passes) == before
    list(training.advance(1))
    training.hypotheses()
    assert passes[before:] == [True, False]
    assert len(heard) == 4


def test_a_reading_of_many_samples_is_that_of_all_of_them():
    samples = clips(40)
    training, _ = run(Recipe(batch=8), steps=10, samples=samples)
    reading = training.read()
    training.network.eval()
    batch = collate(samples)
    log_probs, steps = training.network(batch.features, batch.frames)
    losses = (
        clip_losses(log_probs, steps, batch.targets, batch.target_lengths, blank=0)
        / batch.target_lengths
    )
    assert reading.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    inside = torch.arange(len(log_probs))[:, None] < steps
    assert reading.blank_share == pytest.approx(
        (log_probs.argmax(-1)[inside] == 0).float().mean().item(), rel=1e-5
    )
    entropy = -(log_probs.exp() * log_probs).sum(-1)[inside].mean().item() / math.log(7)
    assert reading.entropy_ratio == pytest.approx(entropy, rel=1e-5)


def test_only_batch_norms_of_torchs_momentum_are_made_to_keep_up():
    network = nn.Sequential(
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2, momentum=0.01),
        nn.BatchNorm1d(2, momentum=None),
        nn.GroupNorm(1, 2),
    )
    keep_up_norms(network, 0.3)
    assert [getattr(module, "momentum", "none") for module in network] == [0.3, 0.01, None, "none"]
    untouched = nn.BatchNorm1d(2)
    keep_up_norms(untouched, None)
    assert untouched.momentum == 0.1


def test_the_optimiser_is_the_recipes():
    network = Convolutions(5, 7)
    sgd = make_optimizer(
        network, subject(), Recipe(optimizer="sgd", lr=0.5, momentum=0.9, weight_decay=0.01)
    )
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"], sgd.param_groups[0]["lr"]) == (
        0.9,
        0.01,
        0.5,
    )
    assert type(make_optimizer(network, subject(), Recipe())) is torch.optim.Adam
    assert type(make_optimizer(network, subject(), Recipe(optimizer="adamw"))) is torch.optim.AdamW


def test_selected_clips_are_cut_to_the_longest_of_them():
    batch = collate(clips(6))
    part = select(batch, torch.tensor([4, 0]))
    assert part.names == ("c4", "c0")
    assert part.features.shape[1] == int(part.frames.max()) == 20
    assert torch.equal(part.targets, batch.targets[[4, 0]])
    assert select(batch, torch.arange(6)) is batch


@pytest.mark.parametrize("batch", [None, 2])
def test_paths_are_followed_frame_by_frame_until_all_paths_are_again(batch):
    training, _ = run(Recipe(batch=batch, warmup=10), steps=4)
    fresh, _ = run(Recipe(batch=batch, warmup=10), steps=4)
    training.follow_own_paths()
    assert [len(path) for path in training.paths] == [sample.frames for sample in training.samples]
    for path, sample in zip(training.paths, training.samples, strict=True):
        spelt = torch.unique_consecutive(path)
        assert spelt[spelt != 0].tolist() == sample.target.tolist()
    clips = torch.tensor([3, 1])
    chosen = select(collate(training.samples), clips)
    log_probs, steps = training.network(chosen.features, chosen.frames)
    whole = clip_losses(log_probs, steps, chosen.targets, chosen.target_lengths, blank=0)
    along = [
        -sum(log_probs[t, i, symbol] for t, symbol in enumerate(training.paths[clip]))
        for i, clip in enumerate(clips.tolist())
    ]
    expected = torch.stack([torch.as_tensor(loss) for loss in along])
    assert (expected >= whole - 1e-4).all()
    assert training.path_loss(chosen, clips).item() == pytest.approx(
        (expected / chosen.target_lengths).mean().item(), rel=1e-5
    )
    list(training.advance(3))
    assert training.trace.lrs[4:] == pytest.approx(training.trace.lrs[:3])
    training.follow_all_paths()
    fresh.network.load_state_dict(training.network.state_dict())
    fresh.order.set_state(training.order.get_state())
    fresh._queue = list(training._queue)
    assert next(training.advance(1)) == next(fresh.advance(1))


def test_hypotheses_are_those_of_the_subjects_decoder():
    training, _ = run(
        Recipe(), steps=0, decode=lambda log_probs, steps: [[1, 2]] * log_probs.shape[1]
    )
    assert training.hypotheses() == [[1, 2]] * 6
