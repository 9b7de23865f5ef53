"""What a model says of a picture, and what the pipeline asks of any model. Without TensorFlow, which takes seconds."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.contract import CONFIDENCE_SCALE, ORIGINS

Pixels = npt.NDArray[Any]
"""uint8 or uint16 [H, W, 3], sRGB."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a model decided about one picture, before any full-size pixel is touched.

    Attributes:
      caption: The caption it was given.
      coefficients: Inputs of `apply_*` by name; empty for a foreign model.
      damage: Probability by damage class; empty if the model does not say.
      confidence: exp(-expected_error / 10). This and the following are None where the model does not say.
      expected_error: Mean CIEDE2000 difference to the truth that the restored picture is expected to have.
      error_low: 80% of pictures have an error between this
      error_high: and this.
      fallback: How far the result is drawn back to the input, 0..1.
      colour_measured: Share of the restored chroma that was in the input; with the next two it makes 1.
      colour_amplified: Share that was amplified from the input.
      colour_invented: Share that caption and training alone suggest.
      invented_error: `expected_error` with invented colours, None where there is nothing to invent.
      asks: Whether the caption names a colour.
      maps: `confidence_map` and `defect_map` of the whole picture, uint8 [h, w], 255 for 1; empty if the model does
        not say.
    """

    caption: str
    coefficients: dict[str, npt.NDArray[np.float32]]
    damage: dict[str, float] = dataclasses.field(default_factory=dict)
    confidence: float | None = None
    expected_error: float | None = None
    error_low: float | None = None
    error_high: float | None = None
    fallback: float | None = None
    colour_measured: float | None = None
    colour_amplified: float | None = None
    colour_invented: float | None = None
    invented_error: float | None = None
    asks: bool = False
    maps: dict[str, npt.NDArray[np.uint8]] = dataclasses.field(default_factory=dict)

    @property
    def colours(self) -> dict[str, float]:
        """Shares of the restored chroma by `ORIGINS`; empty if the model does not say."""
        shares = (self.colour_measured, self.colour_amplified, self.colour_invented)
        return {name: share for name, share in zip(ORIGINS, shares, strict=True) if share is not None}

    def as_wished(self, colourise: str, clean: bool) -> Decision:
        """The same with what the user does not want taken out.

        Args:
          colourise: One of `COLOURISE`.
          clean: Whether noise, scratches and JPEG artefacts are taken out.
        """
        coefficients = dict(self.coefficients)
        if not clean and "detail" in coefficients:
            coefficients["detail"] = np.zeros_like(coefficients["detail"])
        if self.invented_error is None:
            return dataclasses.replace(self, coefficients=coefficients)
        if colourise == "always" or (colourise == "caption" and self.asks):
            # Invented colours bring an error of their own, of which nothing in the picture tells.
            expected = max(self.expected_error or 0.0, self.invented_error)
            scale = expected / max(self.expected_error or 0.0, 1e-6)
            return dataclasses.replace(
                self,
                coefficients=coefficients,
                confidence=float(np.exp(-expected / CONFIDENCE_SCALE)),
                expected_error=expected,
                error_low=None if self.error_low is None else self.error_low * scale,
                error_high=None if self.error_high is None else self.error_high * scale,
                colour_measured=0.0,
                colour_amplified=0.0,
                colour_invented=1.0,
            )
        coefficients["chroma"] = np.zeros_like(coefficients["chroma"])
        return dataclasses.replace(self, coefficients=coefficients, invented_error=None)


class Model(Protocol):
    """What the pipeline asks of any model."""

    reads_captions: bool

    def decide(self, thumbnails: Pixels, captions: list[str], palettes: npt.NDArray[np.float32]) -> list[Decision]:
        """Decides for a batch: uint8 [N, 256, 256, 3], N captions, float32 [N, 64]."""
        ...

    def apply(self, pixels: Pixels, decision: Decision) -> Pixels:
        """Restores one picture at its own size and depth."""
        ...
