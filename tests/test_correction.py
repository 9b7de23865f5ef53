"""The two forms of the correction: differentiable for training, by look-up table for serving."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates

from models import correction
from models.colour import (
    LUMINANCE,
    MAX_DENSITY,
    density_table,
    density_to_linear,
    density_to_srgb,
    linear_to_srgb,
    luminance_to_lightness,
)
from models.correction import Coefficients
from models.degradation import fade_matrix


def coefficients(seed: int, strength: float = 1.0, uneven: bool = False, invents: bool = False) -> Coefficients:
    """Random matrix, curves with slopes between e^-1.5 and e^1.5, and more, as the generator may decide them."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3, 4) + strength * rng.normal(0, 0.2, (3, 4))
    slopes = np.exp(strength * rng.uniform(-1.5, 1.5, (3, correction.SEGMENTS)))
    curves = np.concatenate([np.zeros((3, 1)), slopes.cumsum(1)], 1) * (MAX_DENSITY / correction.SEGMENTS)
    same = single(correction.identity(1))
    slope = rng.normal(0, 0.1, (3, 4)) * uneven
    field = rng.uniform(-1, 1, same.field.shape)
    chroma = rng.normal(0, 30, same.chroma.shape) * invents
    values = (matrix, slope, field, curves, chroma, np.zeros(2))
    return Coefficients(*(tf.constant(value, tf.float32) for value in values))


def single(batch: Coefficients) -> Coefficients:
    return Coefficients(*(value[0] for value in batch))


def several(one: Coefficients) -> Coefficients:
    return Coefficients(*(value[None] for value in one))


def kept(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return image


def run(image: np.ndarray, given: Coefficients) -> np.ndarray:
    return correction.apply(tf.constant(image), given, kept).numpy()


IDENTITY = single(correction.identity(1))


def noise(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_identity_returns_every_8_bit_code() -> None:
    image = np.stack([np.arange(256), np.arange(255, -1, -1), np.roll(np.arange(256), 77)], -1)
    image = image.astype(np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(run(image, IDENTITY), image)


def test_identity_returns_every_16_bit_code_within_two() -> None:
    codes = np.arange(65536)
    image = np.stack([codes, codes[::-1], np.roll(codes, 30000)], -1).astype(np.uint16).reshape(256, 256, 3)
    restored = run(image, IDENTITY)
    assert restored.dtype == np.uint16
    assert np.abs(restored.astype(int) - image).max() <= 2


def exactly(image: np.ndarray, given: Coefficients) -> np.ndarray:
    """The differentiable form, in code values of the picture's depth."""
    codes = np.iinfo(image.dtype).max
    density = correction.correct(tf.constant(density_table(codes + 1)[image][None]), several(given))
    linear = tf.clip_by_value(density_to_linear(density), 0.0, 1.0)
    if given.chroma.numpy().any():
        luminance = tf.reduce_sum(linear * LUMINANCE, axis=-1)
        chroma = correction.slice_chroma(luminance_to_lightness(luminance), given.chroma[None])
        linear = correction.tint(luminance, chroma)
    return np.rint(linear_to_srgb(linear)[0].numpy() * codes).astype(int)


@pytest.mark.parametrize("kind", ["even", "uneven", "invents"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tables_agree_with_the_differentiable_form(kind: str, dtype: type) -> None:
    for seed in range(3):
        image = noise((48, 60, 3), dtype, seed)
        image[0] = np.linspace(0, np.iinfo(dtype).max, 60)[:, None]  # greys, with both ends
        given = coefficients(seed, uneven=kind != "even", invents=kind == "invents")
        difference = np.abs(run(image, given).astype(int) - exactly(image, given)).max()
        assert difference <= (1 if dtype is np.uint8 else 16)  # interpolated: a sixteenth of an 8-bit code


@pytest.mark.parametrize("kind", ["even", "uneven", "invents"])
def test_pieces_leave_no_trace(kind: str) -> None:
    image = noise((701, 401, 3), np.uint8)  # two whole pieces and a rest
    assert image.shape[0] * image.shape[1] > 2 * correction._PIECE
    given = coefficients(3, 0.5, uneven=kind != "even", invents=kind == "invents")
    whole = run(image, given).astype(int)
    difference = np.abs(whole - exactly(image, given))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 19, 3), (19, 1, 3), (3, 4097, 3)])
@pytest.mark.parametrize("kind", ["even", "invents"])
def test_small_and_narrow_pictures(shape: tuple[int, ...], kind: str) -> None:
    given = coefficients(5, uneven=kind != "even", invents=kind == "invents")
    for dtype in (np.uint8, np.uint16):
        restored = run(noise(shape, dtype), given)
        assert restored.shape == shape
        assert restored.dtype == dtype


def test_the_field_is_interpolated_between_the_centres_of_its_cells() -> None:
    weights = correction.interpolation(64, 8)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    values = weights @ np.arange(8)
    np.testing.assert_allclose(values, np.clip((np.arange(64) + 0.5) / 8 - 0.5, 0, 7), atol=1e-5)


def cell_positions(size: int, cells: int) -> np.ndarray:
    return (np.arange(size) + 0.5) * cells / size - 0.5


def test_the_field_is_that_of_scipy() -> None:
    given = coefficients(4, uneven=True)
    density = np.random.default_rng(0).uniform(0, 1.5, (37, 50, 3)).astype(np.float32)
    at = np.meshgrid(cell_positions(37, correction.FIELD), cell_positions(50, correction.FIELD), indexing="ij")
    field = map_coordinates(given.field.numpy(), at, order=1, mode="nearest")[..., None]
    matrix, slope = given.matrix.numpy(), given.slope.numpy()
    mixed = density @ matrix[:, :3].T + matrix[:, 3] + field * (density @ slope[:, :3].T + slope[:, 3])
    same = given._replace(curves=IDENTITY.curves)
    corrected = correction.correct(tf.constant(density[None]), several(same))[0].numpy()
    np.testing.assert_allclose(corrected, np.clip(mixed, -0.5, 3.5), atol=1e-4)


def test_the_chroma_grid_is_that_of_scipy() -> None:
    chroma = coefficients(6, invents=True).chroma
    lightness = np.random.default_rng(0).uniform(0, 100, (21, 34)).astype(np.float32)
    lightness[0, :2] = 0, 100
    rows, columns = cell_positions(21, correction.GRID), cell_positions(34, correction.GRID)
    at = [*np.meshgrid(rows, columns, indexing="ij"), lightness * (correction.LEVELS - 1) / 100]
    expected = [map_coordinates(chroma.numpy()[..., channel], at, order=1, mode="nearest") for channel in (0, 1)]
    sliced = correction.slice_chroma(tf.constant(lightness[None]), chroma[None])[0].numpy()
    np.testing.assert_allclose(sliced, np.stack(expected, axis=-1), atol=1e-3)


@pytest.mark.parametrize("kind", ["even", "uneven", "invents"])
def test_around_the_end_of_a_piece(kind: str) -> None:
    given = coefficients(9, 0.5, uneven=kind != "even", invents=kind == "invents")
    piece = correction._PIECE
    for shape in ((1, piece - 1), (1, piece), (piece + 1, 1), (2, piece // 2), (257, 511)):
        image = noise((*shape, 3), np.uint8)
        difference = np.abs(run(image, given).astype(int) - exactly(image, given))
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.2
    if kind == "even":  # then a pixel's place does not matter at all
        np.testing.assert_array_equal(run(image[::-1, ::-1], given)[::-1, ::-1], run(image, given))


def test_grey_stays_grey() -> None:
    matrix = np.concatenate([0.9 * np.eye(3) + 0.05, np.full((3, 1), -0.02)], axis=1)
    curve = coefficients(2).curves[:1]
    given = IDENTITY._replace(matrix=tf.constant(matrix, tf.float32), curves=tf.repeat(curve, 3, axis=0))
    for dtype in (np.uint8, np.uint16):
        image = np.repeat(noise((40, 41, 1), dtype), 3, axis=2)
        restored = run(image, given).astype(int)
        assert np.ptp(restored, axis=2).max() <= (1 if dtype is np.uint8 else 8)  # rounding
        assert np.abs(restored - image).mean() > 2  # it does change


MEMORY = """
import resource
import tensorflow as tf
from models import correction
from models.detail import Detail

detail = Detail(width=4)  # for speed
given = correction.Coefficients(*(value[0] for value in correction.identity(1)))
given = given._replace(slope=given.slope + 0.01, chroma=given.chroma + 1.0, detail=given.detail + 0.5)
serve = tf.function(lambda image: correction.apply(image, given, detail.remove))
for height in (1024, 1024, 3072):
    serve(tf.zeros([height, 1024, 3], tf.uint8))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_grows_with_the_picture_and_not_with_the_network() -> None:
    """In a process of its own, as the highest use of memory is known for whole processes alone."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    peaks = [int(line) * 1024 for line in done.stdout.split()]
    # A picture with 8 bits in and out and 16 bits between, and copies of it: no floating point, no channels.
    per_pixel = (peaks[2] - peaks[1]) / (2048 * 1024)
    assert per_pixel < 40


def test_a_tint_keeps_luminance_and_stays_in_the_gamut() -> None:
    luminance = tf.random.stateless_uniform([2000], [1, 1])
    ab = tf.random.stateless_normal([2000, 2], [1, 2]) * 60
    colour = correction.tint(luminance, ab).numpy()
    assert 0 <= colour.min() <= colour.max() <= 1
    np.testing.assert_allclose(colour @ LUMINANCE, luminance, atol=2e-3)
    none = correction.tint(luminance, tf.zeros([2000, 2])).numpy()
    assert np.ptp(none, axis=1).max() < 1e-3


def test_cleaning_happens_first_and_only_if_asked() -> None:
    image = noise((8, 9, 3), np.uint8)

    def black(picture: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(tf.cast(picture, tf.uint16)) + tf.cast(strength[0] * 0, tf.uint16)

    asked = correction.apply(tf.constant(image), IDENTITY._replace(detail=tf.ones([2])), black)
    assert asked.dtype == tf.uint8
    assert not asked.numpy().any()
    np.testing.assert_array_equal(correction.apply(tf.constant(image), IDENTITY, black), image)


def test_it_can_undo_any_fading_exactly() -> None:
    absorption = tf.constant([[[1.0, 0.15, 0.08], [0.2, 1.0, 0.12], [0.07, 0.25, 1.0]]])
    fade = fade_matrix(absorption, tf.constant([[0.35, 0.6, 0.9]]))[0].numpy()
    rng = np.random.default_rng(0)
    density = rng.uniform(0.1, 1.6, (64, 64, 3)).astype(np.float32)
    faded = density @ fade.T
    inside = (faded > 0).all(-1)
    assert inside.mean() > 0.9
    scan = np.rint(density_to_srgb(tf.constant(faded)).numpy() * 65535).astype(np.uint16)
    matrix = np.concatenate([np.linalg.inv(fade), np.zeros((3, 1))], axis=1).astype(np.float32)
    restored = run(scan, IDENTITY._replace(matrix=tf.constant(matrix))).astype(float) / 257
    original = density_to_srgb(tf.constant(density)).numpy() * 255
    assert np.abs(scan / 257 - original)[inside].mean() > 20  # the fading was real
    assert np.abs(restored - original)[inside].max() < 1


def test_it_can_undo_a_stain_exactly() -> None:
    density = np.random.default_rng(0).uniform(0.0, 2.0, (1, 500, 3)).astype(np.float32)
    stain = np.array([0.02, 0.1, 0.3], np.float32)
    matrix = np.eye(3, 4, dtype=np.float32)
    matrix[:, 3] = -stain
    undone = IDENTITY._replace(matrix=tf.constant(matrix))
    restored = correction.correct(tf.constant(density + stain)[None], several(undone))[0].numpy()
    np.testing.assert_allclose(restored, density, atol=1e-5)


def test_curves_pass_through_their_knots_and_go_on_straight() -> None:
    curves = coefficients(7).curves.numpy()
    at = np.tile(correction.knots()[:, None], (1, 3))[None]
    values = correction.evaluate_curves(tf.constant(at), tf.constant(curves[None])).numpy()[0].T
    np.testing.assert_allclose(values, curves, atol=1e-4)
    step = MAX_DENSITY / correction.SEGMENTS
    beyond = np.array([[[-0.3] * 3, [MAX_DENSITY + 0.3] * 3]], np.float32)
    ends = correction.evaluate_curves(tf.constant(beyond), tf.constant(curves[None])).numpy()[0]
    np.testing.assert_allclose(ends[0], curves[:, 0] - 0.3 * (curves[:, 1] - curves[:, 0]) / step, atol=1e-4)
    np.testing.assert_allclose(ends[1], curves[:, -1] + 0.3 * (curves[:, -1] - curves[:, -2]) / step, atol=1e-4)


def test_the_gradient_reaches_every_coefficient() -> None:
    given = several(coefficients(8, uneven=True)._replace(matrix=tf.eye(3, 4)))  # every piece of every curve is visited
    density = tf.random.stateless_uniform([1, 20, 20, 3], [1, 2], 0.0, MAX_DENSITY)
    learned = (given.matrix, given.slope, given.field, given.curves)
    with tf.GradientTape() as tape:
        tape.watch(learned)
        total = tf.reduce_sum(correction.correct(density, given) ** 2)
    for gradient in tape.gradient(total, learned):
        assert np.isfinite(gradient.numpy()).all()
        assert (gradient.numpy() != 0).all()
