"""The CIFAR ResNets of He et al. 2016 (section 4.2), with parameter-free option A shortcuts.

Keys are those of akamaster/pytorch_resnet_cifar10: `conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear`. Inputs are
`[n, 3, 32, 32]` in [0, 1], normalised with `MEAN` and `STD`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut that subsamples by 2 and pads new channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build a block from `inputs` to `outputs` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` -> `[n, outputs, h / stride, w / stride]`."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        inner = self.bn2(self.conv2(inner))
        if self.new_channels:
            half = self.new_channels // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return functional.relu(inner + x)


class CifarResNet(nn.Module):
    """A ResNet of 6 * blocks + 2 layers with 16, 32 and 64 channels and ten classes."""

    def __init__(self, blocks: int) -> None:
        """Build three stages of `blocks` blocks each."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(blocks)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(blocks - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(blocks - 1)])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, 3, 32, 32]` -> scores `[n, 10]`."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def normalised(images: Tensor) -> Tensor:
    """`[n, 3, 32, 32]` in [0, 1] -> the range the pretrained networks were trained on."""
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
