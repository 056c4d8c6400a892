"""Findings of the decoder: it must read an ideal path back as the target it was made from, and
share its blank with the loss and the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from pytest_overfit.finding import Finding, counted
from pytest_overfit.findings.bench import SOUGHT, Bench, readable
from pytest_overfit.findings.lengths import WRONG_STEPS
from pytest_overfit.findings.loss import loss_blank, loss_is_ctc
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import DEFAULT_BOTH, DEFAULT_DECODER

CANDIDATES = 512
"""Ids tried as the decoder's blank."""
SURE = 12.0
"""Logit of a path's token over all others."""

Path = Sequence[int]


def blanks_agree(bench: Bench) -> tuple[Finding, ...]:
    """The id that the loss aligns as blank is the one that the decoder drops, and the one that the
    subject names.
    """
    named, dropped = bench.subject.blank, bench.once(decoder_blanks)
    lost = (
        named if bench.once(loss_is_ctc) else bench.once(loss_blank)
    )  # of a loss that is no CTC the blank cannot be told
    if lost == named and dropped in ([named], []):
        return ()
    decoder = " and ".join(map(str, dropped)) or "nothing"
    return (
        LOSS_DECODER_DISAGREE.finding(
            headline=(
                f"the loss takes {lost} for the blank, the decoder drops {decoder}, and the "
                f"subject names {named}"
            ),
            evidence=(
                "the loss: the id with the largest share of alignments at a uniform output",
                "the decoder: ids whose constant path decodes to nothing",
            ),
            try_="pass one blank id to the loss, to the decoder and to Subject(blank=...)",
            status="confirmed",
        ),
    )


def decoder_blanks(bench: Bench) -> list[int]:
    """The ids that decode to nothing where they are all that is seen.

    Those that mix them up with others decode to something.
    """
    ids = sorted(
        {*range(min(bench.vocabulary, CANDIDATES)), bench.vocabulary - 1, bench.subject.blank}
    )
    decoded = bench.subject.decoded(*outputs_of([[label] * 2 for label in ids], bench.vocabulary))
    dropped = [label for label, tokens in zip(ids, decoded, strict=True) if not tokens]
    return dropped if len(dropped) < len(ids) else []  # one that drops all of them tells of none


def outputs_of(paths: Sequence[Path], vocabulary: int, *, behind: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities (steps, batch, vocabulary) that are nearly certain of each path, and its
    steps; past its end stands `behind`.
    """
    longest = max(map(len, paths))
    ids = torch.tensor([[*path, *[behind] * (longest - len(path))] for path in paths])
    logits = SURE * torch.nn.functional.one_hot(ids.T, vocabulary).float()
    return logits.log_softmax(-1), torch.tensor([len(path) for path in paths])


def ideal_path(target: Path, blank: int, width: int) -> list[int]:
    """Each token `width` steps wide, a blank between neighbours that are equal or where width is
    above 1, a blank at both ends.
    """
    path = [blank]
    for left, token in zip([None, *target], target, strict=False):
        path += ([blank] if left == token or width > 1 else []) + [token] * width
    return [*path, blank]


def collapsed(path: Path) -> list[int]:
    """A path with each run of equal tokens as one token, blanks included."""
    return [token for token, _ in groupby(path)]


def decoder_reads_ideal_paths(bench: Bench) -> tuple[Finding, ...]:
    """Whether the decoder gives back the target of a path that spells it, at one, two and three
    steps a token.
    """
    blanks = bench.once(decoder_blanks)
    blank = blanks[0] if len(blanks) == 1 else bench.subject.blank
    targets = _targets(bench, blank)
    for width in (1, 2, 3):
        paths = [ideal_path(target, blank, width) for target in targets]
        decoded = bench.subject.decoded(*outputs_of(paths, bench.vocabulary, behind=blank))
        if decoded != targets:
            alone = [
                tokens
                for path in paths
                for tokens in bench.subject.decoded(*outputs_of([path], bench.vocabulary))
            ]
            if alone != targets:
                return (_misread(paths, targets, decoded, blank),)
            return (
                _reads_others(targets, decoded)
                if _is_misread_at_one_length(bench, paths, targets, blank)
                else _reads_past(targets, decoded),
            )
    paths = [ideal_path(target, blank, 1)[1:-1] or [blank] for target in targets]
    decoded = bench.subject.decoded(*outputs_of(paths, bench.vocabulary, behind=blank))
    if decoded != targets:
        return (_lost_at_an_end(paths, targets, decoded),)
    token = next(label for label in range(bench.vocabulary) if label != blank)
    paths = [ideal_path(target, blank, 1) for target in targets]
    decoded = bench.subject.decoded(
        *outputs_of(paths, bench.vocabulary, behind=token)
    )  # a token past the end of each clip
    return () if decoded == targets else (_reads_past(targets, decoded),)


def _targets(bench: Bench, blank: int) -> list[list[int]]:
    """The samples' own targets, and short ones with repeats, neighbours and nothing."""
    first, second = ([label for label in range(bench.vocabulary) if label != blank] * 2)[:2]
    made = [
        [],
        [first],
        [first, first],
        [first, second],
        [first, second, first],
        [second, first, first, first, second],
    ]
    own = [
        sample.target.tolist()
        for sample in bench.samples[:SOUGHT]
        if readable(sample.target, bench.vocabulary, blank)
    ]
    return made + own


def _misread(
    paths: list[list[int]], targets: list[list[int]], decoded: list[list[int]], blank: int
) -> Finding:
    """Name the mistake: every way of reading a path wrongly that explains all that was decoded."""

    def unblanked(path: list[int]) -> list[int]:
        return [token for token in path if token != blank]

    drop, collapse = "remove blanks", "collapse repeats"
    mistakes: dict[str, tuple[Callable[[list[int]], list[int]], str]] = {
        "it returns the path as it is": (list, f"{collapse} first, then {drop}"),
        "it drops blanks and does not collapse repeats": (
            unblanked,
            f"{collapse} before blanks are removed",
        ),
        "it collapses repeats and keeps blanks": (collapsed, f"{drop} after repeats are collapsed"),
        "it drops blanks before it collapses repeats, so that equal neighbours become one": (
            lambda path: collapsed(unblanked(path)),
            f"{collapse} first, then {drop}",
        ),
    }
    named, remedy = next(
        (
            (what, remedy)
            for what, (read, remedy) in mistakes.items()
            if [read(path) for path in paths] == decoded
        ),
        (
            None,
            (
                "compare it with the best path: the likeliest token of each step, repeats "
                "collapsed, blanks removed"
            ),
        ),
    )
    wrong = [
        i
        for i, (tokens, target) in enumerate(zip(decoded, targets, strict=False))
        if tokens != target
    ]
    example = "it returns another number of clips"
    if wrong:
        example = (
            f"path {paths[wrong[0]]} should decode to {targets[wrong[0]]}, gives "
            f"{decoded[wrong[0]]}"
        )
    return (DECODER_REPEATS if named else WRONG_DECODER).finding(
        headline=f"the decoder misreads {len(wrong)} of {counted(len(targets), 'ideal path')}"
        + (f": {named}" if named else ""),
        evidence=(example,),
        try_=remedy,
        status="confirmed",
    )


def _lost_at_an_end(
    paths: list[list[int]], targets: list[list[int]], decoded: list[list[int]]
) -> Finding:
    """A path that begins and ends with a token, without blanks around it, is misread."""
    what = next(
        (
            f"a token that is read at the {end} step is left out"
            for end, kept in (("first", slice(1, None)), ("last", slice(None, -1)))
            if decoded == [target[kept] for target in targets]
        ),
        "it misreads a path that begins and ends with a token",
    )
    wrong = next(i for i, target in enumerate(targets) if decoded[i : i + 1] != [target])
    given = decoded[wrong] if wrong < len(decoded) else "nothing"
    return WRONG_DECODER.finding(
        headline=f"the decoder takes a blank at either end for granted: {what}",
        evidence=(f"path {paths[wrong]} should decode to {targets[wrong]}, gives {given}",),
        try_="begin with no token before the first step, as if it were a blank",
        status="confirmed",
    )


def _is_misread_at_one_length(
    bench: Bench, paths: list[list[int]], targets: list[list[int]], blank: int
) -> bool:
    """Whether clips of one length are misread beside each other too: nothing stands past their
    end.
    """
    longest = max(map(len, paths))
    alike = [[*path, *[blank] * (longest - len(path))] for path in paths]
    return bench.subject.decoded(*outputs_of(alike, bench.vocabulary)) != targets


def _reads_others(targets: list[list[int]], decoded: list[list[int]]) -> Finding:
    """Every clip is read rightly alone, and not beside others of its own length."""
    return WRONG_DECODER.finding(
        headline="the decoder reads each clip rightly alone and mixes clips of a batch",
        evidence=_first_misread(targets, decoded, "others"),
        try_="check the axes that it reads along: an output is (steps, batch, vocabulary)",
        status="confirmed",
    )


def _reads_past(targets: list[list[int]], decoded: list[list[int]]) -> Finding:
    """Every clip is read rightly alone, and some are not in a batch with longer ones."""
    return WRONG_STEPS.finding(
        headline="the decoder reads past the steps that a clip has",
        evidence=_first_misread(targets, decoded, "longer ones"),
        try_="cut each clip's output to its own steps before decoding",
        status="confirmed",
    )


def _first_misread(
    targets: list[list[int]], decoded: list[list[int]], beside: str
) -> tuple[str, ...]:
    """The first clip that a batch misreads, in words; none where only their number differs."""
    return next(
        (
            (f"a clip of {target} decodes to {tokens} beside {beside}",)
            for tokens, target in zip(decoded, targets, strict=False)
            if tokens != target
        ),
        (),
    )


LOSS_DECODER_DISAGREE = Record(
    name="loss_decoder_disagree",
    stage="decoder",
    means=(
        "Loss, decoder and subject do not name the same token as CTC's blank. What is learned as a "
        "blank is then read as a word, or the reverse."
    ),
    detected="The blank of the loss is the token with the largest share of alignments at a "
    "uniform output; those of the decoder are the tokens "
    "whose constant path decodes to nothing.",
    mend="Pass one blank id to the loss, to the decoder and to Subject(blank=...).",
    remedies=(DEFAULT_BOTH,),
    planted=("ctc-decoder-blank", "ctc-loss-blank"),
)
DECODER_REPEATS = Record(
    name="decoder_repeats",
    stage="decoder",
    means="The decoder does not undo CTC: repeats must be collapsed first, blanks removed after "
    "that. Otherwise equal neighbours become one, or one "
    "token becomes many.",
    detected=(
        "Ideal paths, of one to three steps a token, are decoded; one way of reading them wrongly "
        "explains all that comes out."
    ),
    mend="Collapse repeats first, then remove blanks.",
    remedies=(DEFAULT_DECODER,),
    planted=("ctc-no-collapse", "ctc-raw-path", "ctc-collapse-late"),
)
WRONG_DECODER = Record(
    name="wrong_decoder",
    stage="decoder",
    means="The decoder misreads outputs that are nearly certain: it mixes the clips of a batch, or "
    "errs in no way that is known.",
    detected=(
        "Ideal paths, of one to three steps a token, are decoded, and compared with the targets "
        "that they were made from; those of one length are decoded together and alone."
    ),
    mend=(
        "Compare it with the best path: the likeliest token of each step, repeats collapsed, "
        "blanks removed."
    ),
    remedies=(DEFAULT_DECODER,),
    planted=("ctc-decoder-reversed",),
)

ONE_BLANK = Contract(
    name="one blank",
    holds="loss, decoder and subject agree on the blank",
    about="decoder",
    examine=blanks_agree,
    finds=(LOSS_DECODER_DISAGREE,),
)
IDEAL_PATHS = Contract(
    name="ideal paths",
    holds="the decoder reads ideal paths back as their targets",
    about="decoder",
    examine=decoder_reads_ideal_paths,
    finds=(WRONG_STEPS, DECODER_REPEATS, WRONG_DECODER),
)
