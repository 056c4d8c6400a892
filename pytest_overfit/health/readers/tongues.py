"""How lines are spelled, in what `names` and `phrases` know: words of other languages, `Época 3 -
pérdida de validación: 0,51`, abbreviations of trainers, `Ep. 3 : Up. 1000`, and numbers as their
arrays print them, `tensor(0.51, device='cuda:0')`.
"""

# ruff: noqa: RUF001

from __future__ import annotations

import re

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
COMPOUND = re.compile(r"(training|validierung)s(?=verlust|genauigkeit)", re.IGNORECASE)
NUMBERED = re.compile(r"第\s*(\d{1,12})\s*(?:个)?\s*(?:轮次?|epoch|代)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"(?<=[:=])(\s*\d+),(\d{1,2}|\d{4,})(?![\d.]|,\d)")
"""A number that can be no count of thousands."""
COMMA = re.compile(r"(?<=[:=])(\s*\d+),(\d+)(?![\d.]|,\d)")
POINTED = re.compile(r"\d\.\d")
NUMBER = r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf)"
ARRAY = re.compile(
    rf"(?:\btensor|\b(?:np|numpy|jnp)\.\w+|\b\w*[aA]rray)\(\[?\s*({NUMBER})\s*\]?(?:,(?:[^()]|\([^()]*\))*)?\)|<tf\.Tensor:[^>]*numpy=({NUMBER})>"
)
"""A number as torch, NumPy 2, JAX or TensorFlow print it."""
CLOCK = r"(epoch|step|iteration)"
ABBREVIATED = (
    (re.compile(r"\bEp\. (?=\d)"), "epoch "),  # Marian
    (re.compile(r"\bUp\. (?=\d)"), "update "),
    (re.compile(r"\bL\.r\. (?=\d)"), "lr "),
    (re.compile(r"\bTR - E(\d{1,6}):"), r"train epoch \1:"),  # PyLaia
    (re.compile(r"\bVA - E(\d{1,6}):"), r"val epoch \1:"),
    (
        re.compile(rf"\b{CLOCK}\.\.\. ?\((?=\d)", re.IGNORECASE),
        r"\1 (",
    ),  # `Step... (500 | Loss: 2.1`
    (
        re.compile(
            rf"\b((?:[a-z_]+ ){{0,2}}[a-z_]+) (?:at|after|for|in) {CLOCK} "
            rf"(\d{{1,12}})(?:/\d{{1,12}})?(?: is|\s?[:=])(?=\s*{NUMBER})",
            re.IGNORECASE,
        ),
        r"\2 \3, \1:",
    ),  # `Average loss at step 100: 2.1`
)


def unwrapped(text: str) -> str:
    """A text with bare numbers in the place of arrays that hold one."""
    return (
        ARRAY.sub(lambda match: match[1] or match[2], text)
        if "(" in text or "<tf." in text
        else text
    )


def in_english(text: str) -> str:
    """A line in the spelling that is understood; decimal commas are points where no number of the
    line has a point.
    """
    text = unwrapped(text)
    for pattern, words in ABBREVIATED:
        text = pattern.sub(words, text)
    if "第" in text:
        text = NUMBERED.sub(r"epoch \1 ", text)
    text, found = FOREIGN.subn(lambda match: f" {match.lastgroup} ", COMPOUND.sub(r"\1 ", text))
    text = re.sub(r" +", " ", text).replace(" :", ":") if found else text
    if POINTED.search(text) or not DECIMAL_COMMA.search(text):
        return text
    return COMMA.sub(r"\1.\2", text)
