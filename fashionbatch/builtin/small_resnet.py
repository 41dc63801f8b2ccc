"""A residual network for images of about 28 pixels, small enough to train on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEM = 32
_WIDTHS = (32, 64, 128)


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` → ``[N, outputs, H / stride, W / stride]``."""
        inner = torch.relu(self.bn1(self.conv1(maps)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))


class SmallResNet(nn.Module):
    """A stem that halves the image, then three residual blocks of 32, 64 and 128 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, _STEM, 3, 1, 1, bias=False),
            nn.BatchNorm2d(_STEM),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        inputs = (_STEM, *_WIDTHS[:-1])
        self.blocks = nn.Sequential(
            *(_Block(a, b, 1 if a == b else 2) for a, b in zip(inputs, _WIDTHS, strict=True))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalized float32 ``[N, 3, H, W]`` → float32 ``[N, 128]``."""
        maps: Tensor = self.blocks(self.stem(images))
        return maps.mean(dim=(2, 3))
