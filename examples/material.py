"""Files for the examples: `python -m examples.material signs|speech|lines|lips DIR`.

signs   real landmarks of fingerspelled letters in 19 sign languages, as MP_Data keeps them (needs
        spoken-to-signed)
speech  numbers that espeak-ng speaks, in several voices and at several speeds (needs espeak-ng, a
        Debian package)
lines   lines of text, drawn by Pillow with the font that it carries
lips    a photographed mouth that is stretched as sounds are spoken, as videos (needs scikit-image
        and OpenCV)
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from fixtures.errors import BadFeatures

CLIPS = 50
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "point",
    "minus",
]
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f3", "en-gb+m3")
LETTERS = "abcdefghijklmnoprstuvwz"
MOUTHS = {
    "a": (1.6, 1.0),
    "e": (1.2, 1.3),
    "i": (0.8, 1.4),
    "o": (1.4, 0.7),
    "u": (1.0, 0.6),
    "m": (0.4, 1.0),
    "f": (0.6, 1.2),
    "s": (0.8, 1.1),
}
"""Sound -> how far the mouth opens and how wide it is, in shares of the photograph's."""
MOUTH = (225, 145, 32, 20)
"""Where it is in scikit-image's photograph: centre, half its width, half its height."""
FRAMES_A_SOUND = 8


def signs(folder: Path) -> None:
    """SIGN/SEQUENCE/FRAME.npy, each (1662,) float64, in shoulder widths: one sequence a sign."""
    from fixtures.landmarks import FACE, LEFT_HAND, OURS, POSE, RIGHT_HAND, arrange
    from fixtures.recordings import recordings

    source = recordings()
    for number, gloss in enumerate(source.glosses[:CLIPS]):
        clip = source[number]
        place = folder / gloss.replace(":", "_") / "0"
        place.mkdir(parents=True)
        visible = np.where(clip.seen[..., None], 1.0, 0.0)
        pose = arrange(np.concatenate([clip.points, visible], -1), OURS, POSE).reshape(
            clip.frames, -1
        )
        rest = arrange(clip.points, OURS, FACE + LEFT_HAND + RIGHT_HAND).reshape(clip.frames, -1)
        for frame, values in enumerate(np.concatenate([pose, rest], 1).astype(np.float64)):
            np.save(place / f"{frame}.npy", values)


def speech(folder: Path) -> None:
    """Wave files, 22,050 samples a second. Raises BadFeatures where espeak-ng is missing."""
    if shutil.which("espeak-ng") is None:
        raise BadFeatures(
            "espeak-ng is not installed, which speaks the examples: apt-get install espeak-ng"
        )
    sentences = _sentences(NUMBERS, tokens=(4, 8))
    for number, words in enumerate(sentences):
        command = [
            "espeak-ng",
            "-v",
            VOICES[number % len(VOICES)],
            "-s",
            str(120 + 10 * (number % 4)),
            "-w",
            str(folder / f"{number:02d}.wav"),
        ]
        subprocess.run([*command, " ".join(words)], check=True)
    _annotate(folder, sentences)


def lines(folder: Path) -> None:
    """Pictures 32 high, black on white."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=20)
    sentences = _sentences(LETTERS, tokens=(8, 16))
    for number, letters in enumerate(sentences):
        text = " ".join(letters)
        picture = Image.new("L", (int(font.getlength(text)) + 12, 32), "white")
        ImageDraw.Draw(picture).text((6, 4), text, font=font, fill="black")
        picture.save(folder / f"{number:02d}.png")
    _annotate(folder, sentences)


def lips(folder: Path) -> None:
    """Videos of 64 x 48 pixels, 25 frames a second."""
    import cv2
    from skimage.data import astronaut

    photograph = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)
    sentences = _sentences(list(MOUTHS), tokens=(5, 9))
    for number, sounds in enumerate(sentences):
        shapes = np.array([(1.0, 1.0), *(MOUTHS[sound] for sound in sounds), (1.0, 1.0)])
        times = np.linspace(0, len(shapes) - 1, FRAMES_A_SOUND * len(shapes))
        video = cv2.VideoWriter(
            str(folder / f"{number:02d}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48)
        )
        for opened, wide in zip(
            *(np.interp(times, np.arange(len(shapes)), shapes[:, axis]) for axis in range(2)),
            strict=True,
        ):
            x, y, half_width, half_height = MOUTH
            across, down = round(half_width / wide), round(half_height / opened)
            video.write(
                cv2.resize(photograph[y - down : y + down, x - across : x + across], (64, 48))
            )
        video.release()
    _annotate(folder, sentences)


def _sentences(tokens_of: Sequence[str], tokens: tuple[int, int]) -> list[list[str]]:
    draw = RandomState(20)
    return [
        [tokens_of[token] for token in draw.randint(len(tokens_of), size=draw.randint(*tokens))]
        for _ in range(CLIPS)
    ]


def _annotate(folder: Path, sentences: Sequence[Sequence[str]]) -> None:
    with (folder / "corpus.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="|")
        rows.writerow(["id", "gloss"])
        rows.writerows(
            [f"{number:02d}", " ".join(tokens)] for number, tokens in enumerate(sentences)
        )


MAKERS: dict[str, Callable[[Path], None]] = {
    "signs": signs,
    "speech": speech,
    "lines": lines,
    "lips": lips,
}


def main(arguments: Sequence[str]) -> int:
    """Write the files of one example. Returns 4 after one line where that cannot be done."""
    if len(arguments) != 2 or arguments[0] not in MAKERS:
        print(f"usage: python -m examples.material {'|'.join(MAKERS)} DIR", file=sys.stderr)
        return 4
    try:
        folder = Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        MAKERS[arguments[0]](folder)
    except BadFeatures as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
