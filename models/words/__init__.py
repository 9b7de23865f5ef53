"""What words mean: a fixed vocabulary of 42,000 English words, and a vector for each.

Distilled from a sentence encoder by `corpus/distil_words.py`, which says how. Beside its meaning a vector holds, for
words that name a colour, which colour that is.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_FOLDER = pathlib.Path(__file__).parent
_VECTORS = _FOLDER / "vectors.npy"

VOCABULARY_PATH = str(_FOLDER / "vocabulary.txt")
"""One lower-case word a line, UTF-8, in alphabetical order: the id of a word is its line's number, from 0."""

WORDS: int = np.load(_VECTORS, mmap_mode="r").shape[0]
"""Words of the vocabulary."""

UNKNOWN = WORDS
"""The id that all other words share."""

MEANING = 48
"""The first columns of a vector: the encoder's principal components, small for words that are everywhere ("the")."""

COLOUR = slice(MEANING, MEANING + 4)
"""The other columns: 1, L*/100, a*/100, b*/100 (CIELAB, D65) for a word that names a colour, else 0."""

WORD_VECTOR = COLOUR.stop
"""Length of a word's vector."""


@functools.lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """The words, by id."""
    return tuple(pathlib.Path(VOCABULARY_PATH).read_text(encoding="utf-8").split("\n")[:-1])


@functools.lru_cache(maxsize=1)
def vectors() -> npt.NDArray[np.float32]:
    """The vectors, by id: float32 [WORDS + 1, WORD_VECTOR], read-only. The last row is the unknown word's: zero."""
    table = np.zeros((WORDS + 1, WORD_VECTOR), np.float32)
    table[:WORDS] = np.load(_VECTORS)
    table.flags.writeable = False
    return table


def asks_for_colour(ids: tf.Tensor) -> tf.Tensor:
    """Whether captions name a colour other than black, white and grey, and so say how a grey picture is to be coloured.

    Args:
      ids: int64 [N, T], words, 0 to WORDS.

    Returns:
      bool [N].
    """
    chroma = np.hypot(*vectors()[:, COLOUR][:, 2:].T)
    return tf.reduce_any(tf.gather(tf.constant(chroma > 0.12), ids), axis=1)


@functools.lru_cache(maxsize=1)
def colour_words() -> dict[str, tuple[float, float, float]]:
    """The words that name a colour, in the vocabulary's order, with its L*, a*, b* (CIELAB, D65)."""
    rows = np.flatnonzero(vectors()[:, COLOUR.start])
    lab = 100 * vectors()[rows, COLOUR.start + 1 : COLOUR.stop]
    return {vocabulary()[row]: (float(L), float(a), float(b)) for row, (L, a, b) in zip(rows, lab, strict=True)}


def nearest_colour_word(lab: npt.ArrayLike) -> str:
    """The word whose colour is closest, by CIE76; of several that mean the same, the shortest ("gray", not "grays").

    Args:
      lab: [3], L*, a*, b* (CIELAB, D65).
    """
    names = sorted(colour_words(), key=len)
    distances = np.linalg.norm(np.array([colour_words()[name] for name in names]) - np.asarray(lab), axis=1)
    return names[int(distances.argmin())]
