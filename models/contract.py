"""Sizes and names that records, training and serving must agree on. Plain constants: imports nothing heavy."""

from __future__ import annotations

import pathlib

DEFAULT_MODEL = str(pathlib.Path(__file__).parent / "default")
"""The generator that ships with the package."""

DEFAULT_SHA256 = "876f99b9abd6acb67418869d357477596a89a68ebf125533d2d8361d79f829c7"
"""Its digest, see `models.vetting`: what has it need not be tried out before a run. Changes with every export."""

THUMBNAIL = 256
"""Side of the square picture that `decide` sees, in pixels."""

SIGHT = 128
"""Side of the picture that the networks see: the thumbnail, averaged 2 x 2. Training pictures have this size."""

VIEW = 64
"""Side of the picture that statistics are taken of: the thumbnail, averaged 4 x 4."""

STATISTICS = 115
"""Length of a picture's density statistics, see `models.statistics`."""

PALETTE_BINS = 8
PALETTE_LOW, PALETTE_SPAN = -90.0, 160.0
PALETTE = PALETTE_BINS * PALETTE_BINS
"""Length of a palette: an a*b* histogram of 8 x 8 cells over -90..70 (grey is the middle of a cell); all zero means
no related picture."""

DAMAGE_CLASSES = ("faded", "cast", "yellowed", "monochrome", "noisy", "scratched", "clean")
"""What the damage head tells apart, in the order of its output. Several may be true of one picture."""

COEFFICIENTS = ("matrix", "slope", "field", "curves", "chroma", "detail")
"""Outputs of `decide` that the `apply_*` signatures take, see `models.correction`."""

HALO = 16
"""Pixels around one that what `apply_*` makes of it depends on, at most; a multiple of 4, as pictures are folded."""

ORIGINS = ("measured", "amplified", "invented")
"""Where the colour of a restored picture comes from, in the order of `decide`'s `origin`."""

NUMBERS = (
    "confidence",
    "expected_error",
    "error_low",
    "error_high",
    "fallback",
    *(f"colour_{name}" for name in ORIGINS),
    "invented_error",
)
"""What a model may say of a picture in one number, see `models.decision.Decision`."""

COLOURISE = ("never", "caption", "always")
"""Which black-and-white pictures are given invented colours: none, those whose caption names a colour, all."""

CONFIDENCE_SCALE = 10.0
"""confidence = exp(-expected error / this): 0.82 at an expected CIEDE2000 of 2, 0.37 at 10."""

CAPTION_TEXT = "caption/text"
CAPTION_IDS = "caption/ids"
CAPTION_WEIGHTS = "caption/weights"
IMAGE_STATISTICS = "image/statistics"
IMAGE_STATISTICS_Z = "image/statistics_z"
"""Names of the raw and the transformed features of the TFT graph."""

MAX_TOKENS = 64
"""Words of a caption that count; longer captions are cut, so that a batch is never as wide as its longest outlier."""
