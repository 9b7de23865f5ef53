"""The vocabulary and its vectors, as they ship."""

from __future__ import annotations

import csv
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from models.words import (
    COLOUR,
    MEANING,
    UNKNOWN,
    VOCABULARY_PATH,
    WORD_VECTOR,
    WORDS,
    asks_for_colour,
    colour_words,
    nearest_colour_word,
    vectors,
    vocabulary,
)
from transforms.features import words

CORPUS = pathlib.Path(__file__).parent.parent / "corpus" / "corpus.csv"

# Words of captions of other collections: trades, transport, clothes, places, weather, war, sport, film.
ORDINARY = """
abbey abattoir accordion acrobat aerodrome alley almshouse anchor apron aqueduct armistice artillery avenue babies
balcony ballroom balloon bandstand banjo baptism barge barley barn barracks bathers battalion battleship bayonet bazaar
beekeeper bicycle biplane blacksmith blizzard bonnet bookshop boulevard boxer brewery bricklayer bridesmaid brigade
brothers bullock bungalow burial butcher butler cabbage cabinet camels canal canoe caravan carnival carpenter carriage
cathedral cavalry ceremony chapel chauffeur chimney cobbled cobbler coffin colliery colliers corset cottage courthouse
courtyard cowboy cradle cricket crinoline croquet crowd cyclist dairy dam demolition derelict ditch dockers dockyard
dolls donkey drought dunes earthquake elephant embankment engineers estuary excavation excursion expedition explorers
factory fairground farmhouse farmyard ferry fiddle firemen fisherman fishmonger fjord flagpole flood foundry fountain
funeral furnace gallows garrison gasworks geyser glacier gondola gramophone granary graveyard greenhouse guesthouse
gypsy hamlet harvest hayloft hedge herring highlands homestead horseback hospital hurdles hut infantry inn interior
ironworks
jetty jockey joiner judge kilt kiosk kite lace laundry lifeboat lighthouse lion loom lumberjack mansion marching market
mayor meadow midwife milkmaid mill miner minister missionary moat monastery moored mosque mountaineers mule nave
newsboy nuns nursery oak oasis observatory orchard orchestra orphanage oxen pagoda parade parasol pavilion peasant
peddler pew piano pier pilgrims plantation ploughing porter portrait potter prairie procession promenade quarry quay
quilt rabbi railwayman ranch reaper rectory refugees regatta regiment reservoir rickshaw riverbank rowing rubble sailor
sawmill schoolboys schooner seaside seated seamstress sewing shawl shearing shepherd shipwreck shopfront shrine sledge
slum smithy smokestack soldier spectators spinning spire stable stagecoach steamer steamship steeple stonemason
storefront strike suffragette sultan surgeon swimmers synagogue tailor tanker tannery tavern temple tenement terrace
thatched tobacco tombstone tramway trawler trench tribe troops turret umbrella unidentified uniform unveiling valley
veil veranda viaduct village vineyard waders wagons waistcoat waitress warehouse watchmaker waterfall wedding weir
wharf wheelbarrow windmill woodland workhouse wreath yacht zeppelin zoo
"""

ARCHIVES = (
    "daguerreotype albumen cyanotype sepia ambrotype tintype stereograph glass negative tinted hand "
    "coloured colored colour color grey gray harbour harbor theatre theater centre center"
)
COLOURS = "reddish bluish golden silvery blond auburn tan turquoise teal maroon khaki grey gray greens beige"
NO_COLOURS = (
    "sand sky grass brick rose dust stone navy peru snow sea salmon copper bronze sepia monochrome dark light pale "
    "bright coloured painted"
)


def vector(word: str) -> np.ndarray:
    return vectors()[vocabulary().index(word), :MEANING]


def likeness(one: str, other: str) -> float:
    a, b = vector(one), vector(other)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def hue(word: str) -> float:
    _, a, b = colour_words()[word]
    return float(np.degrees(np.arctan2(b, a)) % 360)


def tokens(captions: list[str]) -> list[bytes]:
    return [
        token
        for token in words(tf.constant(captions)).values.numpy().tolist()
        if re.search(r"[^\W\d_]", token.decode())
    ]


class TestVocabulary:
    def test_words_are_distinct_and_as_the_graph_splits_them(self) -> None:
        assert len(vocabulary()) == WORDS == len(set(vocabulary()))
        assert 30_000 <= WORDS <= 45_000
        cut = tf.sparse.to_dense(words(tf.constant(vocabulary()))).numpy()
        assert cut.shape == (WORDS, 1)
        assert [word.decode() for word in cut[:, 0]] == list(vocabulary())

    def test_next_to_every_word_of_the_corpus_is_in_it(self) -> None:
        # 1078 captions are younger than the vocabulary; to make it anew changes ids, and needs a new training.
        with CORPUS.open(encoding="utf-8", newline="") as file:
            captions = [f"{row[column]}" for row in csv.DictReader(file) for column in ("caption", "colours")]
        found = tokens(captions)
        assert len(set(found)) > 1500
        missing = {word.decode() for word in found} - set(vocabulary())
        assert len(missing) <= 0.01 * len(set(found)), sorted(missing)

    def test_it_covers_far_more_words_than_the_corpus(self) -> None:
        with CORPUS.open(encoding="utf-8", newline="") as file:
            trained = {
                word.decode() for word in tokens([f"{row['caption']} {row['colours']}" for row in csv.DictReader(file)])
            }
        new = set(ORDINARY.split()) - trained
        assert len(new) > 200
        assert len(new - set(vocabulary())) <= 0.06 * len(new)

    @pytest.mark.parametrize(
        "word",
        ARCHIVES.split(),
    )
    def test_archives_and_both_spellings(self, word: str) -> None:
        assert word in vocabulary()

    def test_it_is_small(self) -> None:
        files = (pathlib.Path(VOCABULARY_PATH), pathlib.Path(VOCABULARY_PATH).with_name("vectors.npy"))
        assert sum(file.stat().st_size for file in files) < 5_000_000


class TestMeaning:
    def test_shape_and_scale(self) -> None:
        table = vectors()
        assert table.shape == (WORDS + 1, WORD_VECTOR) == (WORDS + 1, 52)
        assert table.dtype == np.float32
        assert np.isfinite(table).all()
        assert np.abs(table).max() <= 4
        norms = np.linalg.norm(table[:UNKNOWN, :MEANING], axis=1)
        assert 5.5 < norms.mean() < 7.5

    def test_the_unknown_word_says_nothing(self) -> None:
        assert not vectors()[UNKNOWN].any()

    @pytest.mark.parametrize("word", ["the", "of", "and", "in"])
    def test_stop_words_say_next_to_nothing(self, word: str) -> None:
        assert np.linalg.norm(vector(word)) < 1

    @pytest.mark.parametrize(
        ("word", "near", "far"),
        [
            ("meadow", "field", "engine"),
            ("locomotive", "train", "flower"),
            ("schooner", "ship", "kitchen"),
            ("trousers", "jacket", "mountain"),
            ("lighthouse", "coast", "violin"),
            ("orchard", "trees", "soldier"),
            ("harbour", "harbor", "dog"),
            ("crimson", "red", "table"),
            ("sunset", "dusk", "machine"),
        ],
    )
    def test_words_that_mean_alike_are_near(self, word: str, near: str, far: str) -> None:
        assert likeness(word, near) > likeness(word, far) + 0.1


class TestColour:
    def test_hues_are_in_order(self) -> None:
        names = ["red", "orange", "yellow", "green", "turquoise", "blue", "purple"]
        assert sorted(names, key=hue) == names

    @pytest.mark.parametrize(
        ("word", "rgb"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("tan", (209, 178, 111))]
    )
    def test_values(self, word: str, rgb: tuple[int, int, int]) -> None:
        from skimage.color import rgb2lab

        np.testing.assert_allclose(colour_words()[word], rgb2lab(np.array(rgb) / 255), atol=0.1)

    def test_only_colour_words_have_one(self) -> None:
        flags = vectors()[:UNKNOWN, COLOUR.start]
        assert set(np.unique(flags)) == {0.0, 1.0}
        assert len(colour_words()) == int(flags.sum()) > 100
        assert not vectors()[:UNKNOWN][flags == 0, COLOUR.start :].any()

    @pytest.mark.parametrize(
        "word",
        COLOURS.split(),
    )
    def test_colours(self, word: str) -> None:
        assert word in colour_words()

    @pytest.mark.parametrize(
        "word",
        NO_COLOURS.split(),
    )
    def test_things_names_and_modifiers_are_no_colours(self, word: str) -> None:
        assert word in vocabulary()
        assert word not in colour_words()

    def test_of_a_caption(self) -> None:
        index = {word: id for id, word in enumerate(vocabulary())}
        captions = ["the red door", "the sand under the sky", "reddish", "zeppelins"]
        rows = [[index[word] for word in caption.split() if word in index] for caption in captions]
        padded = [(row + [0] * 5)[:5] for row in [*rows, [UNKNOWN], []]]
        assert asks_for_colour(tf.constant(padded, tf.int64)).numpy().tolist() == [
            True,
            False,
            True,
            False,
            False,
            False,
        ]

    def test_every_colour_word_is_nearest_to_itself_or_to_its_equal(self) -> None:
        for word, lab in colour_words().items():
            assert colour_words()[nearest_colour_word(lab)] == lab, word
        assert nearest_colour_word([52, 77, 62]) == "red"
        assert nearest_colour_word([2, 0, 0]) == "black"
