"""What other languages call the metrics of a training run, in the words that `names` knows: `Época
3 - pérdida de validación: 0,51`.
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


def in_english(text: str) -> str:
    """A line with these words in English, and decimal commas as points where no number of the line
    has a point.
    """
    if "第" in text:
        text = NUMBERED.sub(r"epoch \1 ", text)
    text, found = FOREIGN.subn(lambda match: f" {match.lastgroup} ", COMPOUND.sub(r"\1 ", text))
    text = re.sub(r" +", " ", text).replace(" :", ":") if found else text
    if POINTED.search(text) or not DECIMAL_COMMA.search(text):
        return text
    return COMMA.sub(r"\1.\2", text)
