"""One line of a plain log -> what it says: an epoch, a step, numbers by name. Pure, without memory
of the lines before.

A number belongs to the words right before it: `Val WER: 91.0%`, `loss=4.19`, `lr 3e-4`, `'val_wer'
reached 0.34`. After `=` or `:` any name is taken; after a blank only one that is known, for text is
full of numbers. A name that does not say its split takes the one that stands before it in the line,
as in `Validation: loss 4.9, wer 91%`; one of a split alone, as in `Train 4.19 | Val 4.90`, is a
loss. A number with a unit is a duration or a size, and one after `module:function:` is a line of
source.

Before that, a line is put into one spelling: words of other languages, `Época 3 - pérdida de
validación: 0,51`, and abbreviations of trainers, `Ep. 3 : Up. 1000`.
"""

# ruff: noqa: RUF001

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from pytest_overfit.health.curves.metric_names import (
    BESIDE_LOSS,
    NOT_OF_NOW,
    SPLITS,
    clock,
    known,
    words,
)
from pytest_overfit.health.readers.rows import NUMBER, unwrapped

WORDS = {
    "epoch": "第?轮次|轮次|轮|エポック|에폭|에포크|эпох[аи]?|époque|epoque|época|epoca|epoche",
    "step": "步数|步|ステップ|스텝|шаг",
    "train": "训练集?|訓練|学習(?!率)|훈련|학습(?!률)|(?:на |при )?обучени[еяи]|(?:на "
    ")?трейне?|entrenamiento|treinamento|treino|entra[iî]nement"
    "|addestramento|eğitim",
    "val": (
        "验证集?|検証|검증|(?:на )?валидаци[яи]|(?:на )?вал(?=[.: "
        "])|validación|validação|validazione|validierung|doğrulama"
    ),
    "test": "测试集?|テスト|테스트|(?:на )?тест[ае]?(?!\\w)",
    "loss": "损失(?:值|函数)?|損失|손실|потер[иья]|лосс?|pérdida|perda|perte|perdita|verlust|kayıp",
    "accuracy": "准确率|正确率|精度|正解率|정확도|точность|exactitud|precisión|acurácia|précision|exactitude|accuratezza|genauigkeit|doğruluk",
    "cer": "字错误?率|字符错误率|文字誤り率",
    "wer": "词错误?率|单词错误率|単語誤り率",
    "lr": "学习率|学習率|학습률",
    "current": "当前|目前",
    "total": "総計|合計|总计|合计|總計|총합|합계",
}
LINKS = r"(?:\s+(?:de(?:l)?|do|da|di|d'|en|em|sur|auf|der|des|la|le|l')(?!\w))?"
"""What stands between two such words: `pérdida de validación`."""
FOREIGN = re.compile(
    r"(?:(?<![^\W\d_])(?=[a-zà-ÿğıçşа-я])|(?=[^\x00-\u04ff]))(?:"
    + "|".join(f"(?P<{word}>{names})" for word, names in WORDS.items())
    + ")(?![a-zà-ÿ]|(?<=[а-я])[а-я])"
    + LINKS,
    re.IGNORECASE,
)
SCRIPTS_MEET = re.compile(r"(?<=[\u3040-\u9fff\uac00-\ud7af])(?=[a-z])", re.IGNORECASE)
"""Where a Latin word follows on one that is not: two words, whether or not a blank is between them."""
COMPOUND = re.compile(r"(training|validierung)s(?=verlust|genauigkeit)", re.IGNORECASE)
NUMBERED_IN_CHINESE = re.compile(r"第\s*(\d{1,12})\s*(?:个)?\s*(?:轮次?|epoch|代)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"(?<=[:=])(\s*\d+),(\d{1,2}|\d{4,})(?![\d.]|,\d)")
"""A number that can be no count of thousands."""
COMMA = re.compile(r"(?<=[:=])(\s*\d+),(\d+)(?![\d.]|,\d)")
POINTED = re.compile(r"\d\.\d")
CLOCK = r"(epoch|step|iteration)"
A_SPLIT = "|".join(SPLITS)
ABBREVIATED = (
    (re.compile(r"\bEp\. (?=\d)"), "epoch "),  # Marian
    (re.compile(r"\bUp\. (?=\d)"), "update "),
    (re.compile(r"\bL\.r\. (?=\d)"), "lr "),
    (
        re.compile(
            rf"^(epoch +\d{{1,6}} (?:dev|train))_score(?:_output/output_prob)?: (?={NUMBER})"
        ),
        r"\1_loss: ",
    ),  # RETURNN's word for a loss
    (re.compile(r"^(epoch +\d{1,6} (?:dev|train)_error)_output/output_prob: "), r"\1: "),
    (
        re.compile(
            rf"^ *(\d{{1,9}})(?:, \d+\.\d+)?: (?={NUMBER}, {NUMBER} avg)({NUMBER}), ({NUMBER}) avg(?: loss)?, ({NUMBER}) rate,"
        ),
        r"step \1, loss: \2, running loss: \3, lr: \4,",
    ),  # Darknet
    (
        re.compile(
            rf"^((?:train(?:ing)?|validation) loss) (\d{{1,9}})(?:: +|:? (?={NUMBER} Grad))(?={NUMBER})",
            re.IGNORECASE,
        ),
        r"step \2, \1: ",
    ),  # Tacotron 2
    (
        re.compile(r"^At iteration \d{1,12}/(\d{1,12})/\d{1,12}, (?=mean rms)", re.IGNORECASE),
        r"iteration \1, ",
    ),  # Tesseract, which tells first how many of them it learnt from
    (
        re.compile(
            rf"(?<![\w.])({A_SPLIT})\s?[=: ]\s?(\d+\.\d+)\s?/\s?(\d+\.\d+)(?![\w./])",
            re.IGNORECASE,
        ),
        rf"\1_loss: \2 \1_{BESIDE_LOSS}: \3",
    ),  # a loss and what is read: `tr=1.82/0.36 vl=1.80/0.48`
    (re.compile(r"\bTR - E(\d{1,6}):"), r"train epoch \1:"),  # PyLaia
    (re.compile(r"\bVA - E(\d{1,6}):"), r"val epoch \1:"),
    (
        re.compile(r"^eval(?:uation)? step +(?=\d{1,12}(?!/)\b.*\btrain)", re.IGNORECASE),
        "step ",
    ),  # of training, at which both splits were measured
    (
        re.compile(
            r"^((?:[a-z_]+ ){0,2}[a-z_]+) (?:at|after|for|in) epoch (\d{1,9}),? (?:and )?"
            rf"(step|iteration|batch) (\d{{1,12}})(?: is\s?:?|\s?[:=])(?=\s*{NUMBER})",
            re.IGNORECASE,
        ),
        r"epoch \2, \3 \4, \1:",
    ),  # `Loss at epoch 0 and iteration 500 is 2.1`
    (
        re.compile(rf"(?<![\w.])({A_SPLIT})\s?~\s?\d{{1,3}} ?%", re.IGNORECASE),
        r"\1",
    ),  # of a part of the split: `Val~20% 9.67`
    (
        re.compile(rf"\b{CLOCK}\.\.\. ?\((?=\d)", re.IGNORECASE),
        r"\1 (",
    ),  # `Step... (500 | Loss: 2.1`
    (
        re.compile(
            rf"\b((?:[a-z_]+ ){{0,2}}[a-z_]+)(?: \([a-z]{{2,5}}\))? (?:at|after|for|in|of) {CLOCK} ?"
            rf"(\d{{1,12}})(?:/\d{{1,12}})?(?: ?is\s?:?|\s?[:=])(?=\s*{NUMBER})",
            re.IGNORECASE,
        ),
        r"\2 \3, \1:",
    ),  # `Average loss at step 100: 2.1`
)


TOTAL_OF_LOSSES = re.compile(
    rf"\bloss(?:es)?\s?[:(\[{{-]\s*((?:[a-z_]\w*\s?[=:]\s?{NUMBER}(?![\w.])[\s,;|]*)*)total(?=\s?[=:]\s?{NUMBER})",
    re.IGNORECASE,
)
"""`Losses: conv=1.2, seq=3.4, total=4.6`"""


def in_english(text: str) -> str:
    """A line in the spelling that is understood; decimal commas are points where no number of the
    line has a point.
    """
    text = unwrapped(text).replace("\uff1a", ":")  # the colon of Chinese
    for pattern, written_out in ABBREVIATED:
        text = pattern.sub(written_out, text)
    if "第" in text:
        text = NUMBERED_IN_CHINESE.sub(r"epoch \1 ", text)
    if not text.isascii():
        text = SCRIPTS_MEET.sub(" ", text)
    text, found = FOREIGN.subn(lambda match: f" {match.lastgroup} ", COMPOUND.sub(r"\1 ", text))
    text = re.sub(r" +", " ", text).replace(" :", ":") if found else text
    text = TOTAL_OF_LOSSES.sub(r": \1loss", text)
    if POINTED.search(text) or not DECIMAL_COMMA.search(text):
        return text
    return COMMA.sub(r"\1.\2", text)


ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
WORD = r"(?:\d_)?[A-Za-z_][\w./-]*(?<!\.)"
UNIT = (
    r"(?:million|billion|thousand|k|params?|parameters|samples?|clips?|sentences?|utterances|batches|files|videos|frames|examples|images|steps?(?!\s+\d)"
    r"|hours?|hrs?|minutes|mins?|seconds|secs?|sec|ms|us|s|h|d|[kmgt]i?b|bytes|(?:it|iter|iters|batch|samples?|examples|words|tokens|toks?)/s\w*|fps)"
)
PAIR = re.compile(
    rf"(?<![\w.-])['\"]?(?P<name>{WORD}(?:[ ]{WORD}){{0,3}}+(?:\s?\(?%\)?)?)['\"]?(?:\((?:%|\w{{1,12}})\)|\s\(\d{{1,9}}\)(?=\s+-?\d*\.\d)"
    rf"|\s\((?!train|val|dev|test|eval)[a-z]{{2,14}}\)(?=\s*[:=]))?"
    rf"(?P<sign>\s*[:=]\s*|\s+(?:reached|is|was|of)\s+|\s+|\s*(?=[\[(#]))"
    rf"(?:[\[(#]\s*)?(?P<quote>['\"])?(?P<value>{NUMBER})(?P<percent>\s?%)?(?(quote)['\"])(?!\w(?<![a-zA-Z])|@|[.:-]\d|,\d{{3}}(?!\d))"
    rf"(?:(?:\s*/\s*|\s+(?:out )?of\s+)(?P<total>\d{{1,12}})(?![\d/])|(?P<unit>\s?[\[(]?{UNIT}\b[\])]?(?!\s*[:=]))|(?!\w))",
    re.IGNORECASE,
)
EPOCH_LAST = re.compile(r"(?<![\w./+-])(\d{1,12})(?:/(\d{1,12}))?\s*epoch\b", re.IGNORECASE)
BATCHES_SO_FAR = re.compile(r"\d+epoch:\w+:\d+-(\d{1,9})batch\b")
"""ESPnet's word for the batches of an epoch that a line tells of; of how many it does not say."""
MANY = 10**9
FAR_OF = r"(\d{1,12})\s*/\s*(\d{1,12})"
EPOCH_AND_BATCH = re.compile(rf"^\W{{0,3}}\[\s*{FAR_OF}\s*\]\s*\[\s*{FAR_OF}\s*\]")
BATCH = re.compile(
    rf"\[\s*{FAR_OF}|\|\s*{FAR_OF}\s*\[|(?<![\d/]){FAR_OF}\s+batch|^\s*{FAR_OF}\s|\bbatch\s*\(\s*{FAR_OF}\s*\)"
    rf"|[━╸╺█▏-]\s+{FAR_OF}\s|\bepoch\s+\d+[:,]\s+{FAR_OF}[\s;]|\s-\s+{FAR_OF} \(\d",
    re.IGNORECASE,
)
DRAWN = re.compile(r"%\||\bit/s|\bs/it|━|\bETA\b")
REFRESHED = re.compile(r"%\||it/s|s/it")
"""What a bar tells that is drawn anew with each batch, tqdm's or rich's."""
NUMBERED = re.compile(r"^\s*(?:\|\s*)?#?0*(\d{1,12})(?:\s*\|\s*|:\s+|\t+)(?=[A-Za-z'\"])")
"""A line that starts with its number: `#00000100: loss=3.5`."""
VALIDATIONS = re.compile(
    r"^Steps: \d+\t+(?=[a-z][a-z _-]*:)|\bSaving dict for global step\b", re.IGNORECASE
)
"""A line of JoeyNMT's `validations.txt`, and of TensorFlow's evaluations, which do not say that
they tell of validation.
"""
EPOCH_OF_BATCH = re.compile(r"\b(?:train|cv) batch (\d{1,12})/(\d{1,9})\s", re.IGNORECASE)
"""WeNet's word for the epoch and for the batch in it; of how many it does not say."""
OF_SPLIT = re.compile(rf"^\W*(train|valid|val|dev|eval|test) \({FAR_OF}\)", re.IGNORECASE)
"""Catalyst's word for the epoch, behind the split that a line tells of."""
EPOCH_THEN_NAMED = re.compile(rf"^\W*{FAR_OF}\W+(?=epoch\b)", re.IGNORECASE)
"""An epoch of how many, before it is named again."""
PAST_ITS_PLAN = re.compile(rf"^\[{FAR_OF}\]\s+(?=[a-z])", re.IGNORECASE)
"""A step beyond how many are planned, as of a run that was resumed for a few more: `[300004/4]`."""
STAGE = re.compile(r"^\W*stage\s+(\d{1,12})\s*/\s*(?:(\d{1,12})\b|∞)", re.IGNORECASE)
SCOPES = {**SPLITS, "test": "test", "testing": "test", "best": "best", "cur metric": "val"}
"""What a word tells of the values behind it: their split, or that they are not to be taken for one
of this epoch.
"""
SPLIT_WORD = re.compile(
    rf"(?<![\w./-])({'|'.join(sorted(SCOPES, key=len, reverse=True))})(?![\w/-]|\.\w)",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"\b(?:best|early.?stop\w*|resum\w*|restor\w*|load\w*|sav(?:ed|ing)|checkpoint\w*|patience|improve\w*)\b",
    re.IGNORECASE,
)
NO_CLOCK = frozenset(
    {
        "max",
        "time",
        "taken",
        "took",
        "elapsed",
        "duration",
        "maximum",
        "total",
        "num",
        "number",
        "per",
        "every",
        "each",
        "warmup",
        "save",
        "eval",
        "log",
        "logging",
        "accumulation",
        "best",
    }
)
"""Words before `steps` or `epoch` that make it a setting or a count."""
UNDERSTOOD = frozenset(
    {*SPLITS, "epoch", "step", "info", "debug", "done", "results", "result", "summary", "with"}
)
"""Words before a metric that leave it what it is."""
OF_A_BAR = re.compile(r"\||\s+\d+/\d+\s")
"""Behind how far a progress bar has come: `Validation:   0% 0/7 [00:00<?`."""
CHANGES = re.compile(r"\s*(?:-+>|=+>|→)\s*[-+]?\.?\d")
"""Behind a number that something was before: `improving ppl: 6.1 --> 5.4`."""
INTEGER = re.compile(r"[-+]?\d+")


PROCESS = re.compile(
    r"^(?P<before>.{0,60}?)(?:\[(?:(?:local[ _])?rank|default|proc(?:ess)?|worker|gpu)[ :_=]*(?P<number>\d{1,4})\]"
    r"|\[[\w.-]{1,60}:(?P<espnet>\d{1,4})/\d{1,4}\]|(?<![\w-])(?:local[ _])?rank[ :_=]+(?P<rank>\d{1,4})(?![\w./]))[:,|-]?\s*",
    re.IGNORECASE,
)
"""Which of several processes prints a line, before anything that it tells."""


def process_in(text: str) -> tuple[int | None, str]:
    """The number of the process that prints a line, or None; and the line without it."""
    match = PROCESS.match(text)
    if match is None or "=" in match["before"]:
        return None, text
    number = match["number"] or match["espnet"] or match["rank"]
    return int(number), match["before"] + text[match.end() :]


@dataclass(kw_only=True, slots=True)
class ParsedLine:
    """epoch, step: None where the line does not tell. epochs: how many are planned. batch: (how
    far, of how many) within the epoch.

    bar: whether that is of a progress bar, which at its end tells the metrics of the whole epoch.
    drawn: whether one is drawn. refreshed: whether that is done with each batch, as tqdm and rich
    do. values: (name, split of the words before it or "", value); a name
    ends in " %" where its value had that sign.
    """

    epoch: float | None = None
    step: float | None = None
    epochs: int | None = None
    batch: tuple[int, int] | None = None
    bar: bool = False
    drawn: bool = False
    refreshed: bool = False
    values: list[tuple[str, str, float]] = field(default_factory=list)


def parsed(text: str) -> ParsedLine:
    """What a line says; nothing where it tells of an epoch in passing, as in `stopped early, best
    at epoch 25`.
    """
    line = ParsedLine()
    unknown: list[tuple[str, str, float]] = []
    qualified: list[tuple[str, str, str, float]] = []
    scope, end, clocks = _numbered(line, text)
    for match in PAIR.finditer(text, end):
        if match.start() > end + 1:
            scope = scope_in(text[end : match.start()]) or scope
        end = match.end()
        parts = match["name"].split()
        if _is_source_line(match, text) or match["unit"] or CHANGES.match(text, match.end()):
            continue
        counts = None if match["percent"] else _clock_of(parts, match)
        if counts is not None:
            if (
                counts == "epoch"
                and line.epoch is None
                and ASIDE.search(text, 0, match.start("value"))
            ):
                if line.values:
                    continue
                return ParsedLine()
            scope = split_in(match[0]) or scope
            _count(line, counts, match)
            clocks.append(match.span())
            continue
        scope = _value(line, unknown, qualified, match, text, scope)
    _qualified(line, unknown, qualified)
    if line.epoch is None and (last := EPOCH_LAST.search(text)):
        line.epoch, line.epochs = float(last[1]), int(last[2]) if last[2] else None
        if so_far := BATCHES_SO_FAR.search(text):
            line.batch = (int(so_far[1]), MANY)
    if line.values or line.epoch is not None or line.step is not None:
        line.values += unknown
        if line.batch is None:
            line.batch, line.bar = _batch(text, clocks), True
        line.drawn = DRAWN.search(text) is not None
        line.refreshed = REFRESHED.search(text) is not None
    return line


def split_in(text: str) -> str:
    """The last split that `text` names as a word of its own: "train", "val", or "" where it names
    none or another.
    """
    scope = scope_in(text)
    return scope if scope in ("train", "val") else ""


def scope_in(text: str) -> str:
    """The same, or "test" or "best" for what is not to be taken for one of these."""
    found = SPLIT_WORD.findall(text)
    return SCOPES[found[-1].lower()] if found else ""


def _numbered(line: ParsedLine, text: str) -> tuple[str, int, list[tuple[int, int]]]:
    """Take the clock that a line starts with, if it does.

    Returns scope, where to read on, and the spans of clocks.
    """
    if match := EPOCH_AND_BATCH.match(text):
        line.epoch, line.epochs, line.batch = (
            float(match[1]),
            int(match[2]),
            (int(match[3]), int(match[4])),
        )
    elif (match := PAST_ITS_PLAN.match(text)) and int(match[1]) > int(match[2]):
        line.step = float(match[1])
    elif match := STAGE.match(text):
        line.epoch, line.epochs = float(match[1]), int(match[2]) if match[2] else None
    elif match := OF_SPLIT.match(text):
        line.epoch, line.epochs = float(match[2]), int(match[3])
        return scope_in(match[0]), match.end(), [match.span()]
    elif match := EPOCH_THEN_NAMED.match(text):
        line.epochs = int(match[2])
    elif match := EPOCH_OF_BATCH.search(text):
        line.epoch, line.batch = float(match[1]), (int(match[2]), MANY)
        return scope_in(match[0]), match.end(), [match.span()]
    elif match := NUMBERED.match(text):
        line.step = float(match[1])
    if match is None:
        return "val" if VALIDATIONS.search(text) else "", 0, []
    return "", match.end(), [match.span()]


def _is_source_line(match: re.Match[str], text: str) -> bool:
    """Whether a number is a line of source: of `trainer.py:312`, `(trainer:243)`,
    `trainer.py(312)`, `pkg.trainer:do_train:312`.
    """
    if not INTEGER.fullmatch(match["value"]) or match["sign"].strip() not in (":", ""):
        return False
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    chained = match["sign"] == ":" and (before == ":" or before + after in ("()", "[]"))
    return chained or (match["name"].endswith(".py") and not match["sign"].isspace())


def _clock_of(parts: list[str], match: re.Match[str]) -> str | None:
    """Which clock some words end in: "epoch", "step", "batch", or None."""
    name = [part for word in parts for part in words(word)]
    if not NO_CLOCK.isdisjoint(name) and clock(" ".join(parts)) is None:
        return None
    if name[-1:] in (["batch"], ["minibatch"]):
        return "batch"
    if name[-1:] == ["steps"] and len(name) > 1:
        return None
    return clock(" ".join(parts[-2:])) or clock(parts[-1])


def _qualified(
    line: ParsedLine,
    unknown: list[tuple[str, str, float]],
    qualified: list[tuple[str, str, str, float]],
) -> None:
    """A name behind words that are not understood, `ErrorCls Loss`, is a metric where its line
    tells no plain one of that meaning.
    """
    for name, whole, split, value in qualified:
        meaning = known(name)
        if any(
            (one := known(name)) and meaning and (one.metric, of) == (meaning.metric, split)
            for name, of, _ in line.values
        ):
            unknown.append((whole, split, value))
        else:
            line.values.append((name, split, value))


def _value(
    line: ParsedLine,
    unknown: list[tuple[str, str, float]],
    qualified: list[tuple[str, str, str, float]],
    match: re.Match[str],
    text: str,
    scope: str,
) -> str:
    """Take a number by its name. Returns the scope of what follows it."""
    parts, value = match["name"].split(), float(match["value"])
    named = words(match["name"])
    if "test" in named:
        if match["sign"].strip() or known(match["name"].lower().replace("test", "val")):
            line.values.append((_signed(match["name"], match), "", value))
        return "test"
    if not NOT_OF_NOW.isdisjoint(named):
        return scope
    name, own_split, spaced = _metric(parts)
    split = own_split or (scope if scope in ("train", "val") else "")
    if name == "" and (not own_split or _no_loss(match)):
        if (
            own_split
            and len(parts) == 1
            and match["percent"]
            and not match["total"]
            and OF_A_BAR.match(text, match.end()) is None
        ):
            line.values.append((f"{parts[-1]} %", own_split, value))
        elif match["sign"].strip() and not own_split:
            unknown.append((_signed(" ".join(parts), match), split, value))
        return own_split if own_split and match["percent"] else scope
    if scope in ("test", "best") and not own_split and not _without_split(name):
        if scope == "test":
            line.values.append((_signed(f"test {name}", match), "", value))
        return scope
    dropped = [word for part in parts[: len(parts) - len(name.split())] for word in words(part)]
    if (
        name
        and not own_split
        and match["sign"].strip()
        and any(word not in UNDERSTOOD for word in dropped)
    ):
        aside = f"{' '.join(parts[: len(parts) - len(name.split())])}/{name}"
        qualified.append((_signed(aside, match), _signed(match["name"], match), split, value))
        return scope
    value_of = (_signed(name or "loss", match), split, value)
    # Of a name told twice, as `loss=3.2 ... tot_loss[loss=3.4]`, the first is of now.
    if all(earlier[:2] != value_of[:2] for earlier in line.values):
        line.values.append(value_of)
    return own_split if own_split and spaced else scope


def _without_split(name: str) -> bool:
    meaning = known(name)
    return meaning is not None and meaning.metric in ("lr", "grad_norm")


def _signed(name: str, match: re.Match[str]) -> str:
    return f"{name} %" if match["percent"] else name


def _count(line: ParsedLine, counts: str, match: re.Match[str]) -> None:
    value, total = float(match["value"]), match["total"]
    if not math.isfinite(value):
        return
    if counts == "epoch" and line.epoch is None:
        line.epoch, line.epochs = value, int(total) if total else None
    elif counts != "epoch" and total and value.is_integer() and 0 <= value <= int(total) != 0:
        line.batch = (int(value), int(total))
    elif counts != "epoch" and line.step is None:
        line.step = value


def _metric(parts: list[str]) -> tuple[str, str, bool]:
    """(name, split, whether its words stand apart) of the longest end of some words that is a
    metric; ("", split) where only a split is named.
    """
    for first in range(len(parts)):
        name = " ".join(parts[first:])
        meaning = known(name)
        if meaning is not None:
            return name, meaning.split, len(parts) - first > 1
    return "", SPLITS.get(parts[-1].lower(), ""), True


def _no_loss(match: re.Match[str]) -> bool:
    """Whether a number after a bare split is a count or a share rather than a loss: `Train: 5672
    samples`.
    """
    return bool(match["percent"] or match["total"] or match["value"].isdigit())


def _batch(text: str, clocks: list[tuple[int, int]]) -> tuple[int, int] | None:
    for match in BATCH.finditer(text):
        place = match.start(next(i for i, group in enumerate(match.groups(), 1) if group))
        if not any(start < match.end() and place < end for start, end in clocks):
            far, of = (int(group) for group in match.groups() if group)
            return (far, of) if 0 <= far <= of and of else None
    return None
