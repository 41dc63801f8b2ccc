"""Gradient ascent on a network's input, by its frequencies, so that what grows is an image.

The pixels are a sigmoid of an inverse Fourier transform whose coefficients get smaller with their
frequency, over the colour axes of natural images: steps of equal size then make smooth changes and
not the noise that fools a network (Olah, Mordvintsev & Schubert 2017, Feature Visualization,
"Preconditioning and Parameterization"; colours and start as in its code, lucid).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: from decorrelated colours to red, green and blue: a square root of ImageNet's covariance
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
#: contrast of the start, and of the pixels
_NOISE, _CONTRAST = 0.01, 0.45
#: how fast coefficients fall with the frequency; with lucid's 1, tried on EfficientNet-Lite0, fine
#: noise covered the shapes of clothes
_STEEPNESS = 1.5
#: of an image to start with, so that the sigmoid can be undone
_DARKEST = 0.01
#: of the side, an image is moved by at most so much: 16 of 224 pixels
_JITTER = 14


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Changes an image so that a score rises.

    In each step of Adam the image is moved by a random part of its side (going out at one edge and
    in at the other), so that nothing hangs on the place of a single pixel.

    Attributes:
        steps: how many.
        rate: Adam's learning rate.
        seed: of noise and of the moves.

    Example:
        >>> ascent = Ascent(steps=64, rate=0.05)
        >>> red = ascent.run(lambda pixels: pixels[:, 0].mean(), torch.full((1, 3, 32, 32), 99.0))
        >>> bool(red[0, 0].mean() > 150)
        True
    """

    steps: int
    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is at least 1, not {self.steps}")
        if not self.rate > 0:
            raise ValueError(f"rate is above 0, not {self.rate}")

    def noise(self, side: int, device: torch.device) -> Tensor:
        """A start that shows nothing: float ``[1, 3, side, side]``, about mid-grey."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (1, 3, side, side // 2 + 1, 2)
        spectrum = (torch.randn(shape, generator=generator) * _NOISE).to(device)
        return _pixels(spectrum, side)

    def run(self, score: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        """Climbs.

        Args:
            score: float ``[1, 3, side, side]`` from 0 to 255 → a scalar.
            start: such an image.

        Returns:
            such an image; on one machine the same for the same start.
        """
        side = start.shape[-1]
        generator = torch.Generator().manual_seed(self.seed)
        logits = (start / 255).clamp(_DARKEST, 1 - _DARKEST).logit()
        planes = torch.einsum("dc,nchw->ndhw", _colours(start.device).inverse(), logits)
        spectrum = torch.view_as_real(torch.fft.rfft2(planes) / _scale(side, start.device))
        spectrum = spectrum.clone().requires_grad_()
        optimizer = torch.optim.Adam([spectrum], lr=self.rate)
        most = side // _JITTER
        with torch.enable_grad():
            for _ in range(self.steps):
                down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
                value = score(_pixels(spectrum, side).roll((down, right), (2, 3)))
                (spectrum.grad,) = torch.autograd.grad(-value, spectrum)
                optimizer.step()
        return _pixels(spectrum.detach(), side)


def _pixels(spectrum: Tensor, side: int) -> Tensor:
    """Coefficients ``[1, 3, side, side // 2 + 1, 2]`` → float ``[1, 3, side, side]``, 0 to 255."""
    scaled = torch.view_as_complex(spectrum) * _scale(side, spectrum.device)
    planes = torch.fft.irfft2(scaled, s=(side, side))
    colours = torch.einsum("cd,ndhw->nchw", _colours(spectrum.device), planes)
    pixels: Tensor = colours.sigmoid() * 255
    return pixels


def _scale(side: int, device: torch.device) -> Tensor:
    down, right = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    waves = (side * torch.hypot(down[:, None], right[None])).clamp_min(1).to(device)
    return _CONTRAST * side**2 / waves**_STEEPNESS


def _colours(device: torch.device) -> Tensor:
    colours = torch.tensor(_COLOURS, device=device)
    longest: Tensor = colours.norm(dim=0).max()
    return colours / longest
