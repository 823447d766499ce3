"""ShuffleNetV2 in its authors' and in torchvision's form, and MobileNetV2, in PyTorch, from the facts of either.

state_dict keys are those of the published files. All have `feature_maps(images)`: the maps of strides 4, 8, 16, 32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, window: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, window, stride, padding=window // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def main_branch(inputs: int, middle: int, outputs: int, stride: int) -> nn.Sequential:
    """1×1, depthwise 3×3, 1×1; the depthwise one has no activation."""
    return nn.Sequential(
        *conv_norm(inputs, middle),
        nn.ReLU(),
        *conv_norm(middle, middle, 3, stride, groups=middle),
        *conv_norm(middle, outputs),
        nn.ReLU(),
    )


def projection_branch(inputs: int, outputs: int) -> nn.Sequential:
    """Depthwise 3×3 with stride 2, 1×1."""
    return nn.Sequential(*conv_norm(inputs, inputs, 3, 2, groups=inputs), *conv_norm(inputs, outputs), nn.ReLU())


class MegviiUnit(nn.Module):
    """The channels' parity says which pass and which are worked on."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch_proj = None
        if stride == 2:
            self.branch_main = main_branch(inputs, outputs // 2, outputs - inputs, 2)
            self.branch_proj = projection_branch(inputs, inputs)
        else:
            self.branch_main = main_branch(outputs // 2, outputs // 2, outputs - outputs // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.branch_proj is not None:
            return torch.cat((self.branch_proj(x), self.branch_main(x)), dim=1)
        pairs = x.unflatten(1, (-1, 2))
        return torch.cat((pairs[:, :, 0], self.branch_main(pairs[:, :, 1])), dim=1)


class MegviiShuffleNetV2(nn.Module):
    """Images [N, 3, H, W] → logits [N, classes]."""

    def __init__(self, stem: int, channels: tuple[int, ...], units: tuple[int, ...], head: int, classes: int) -> None:
        super().__init__()
        self.ends = [sum(units[:stage]) for stage in (1, 2, 3)]
        self.first_conv = nn.Sequential(*conv_norm(3, stem, 3, 2), nn.ReLU())
        features: list[nn.Module] = []
        for outputs, count in zip(channels, units, strict=True):
            features += [MegviiUnit(stem, outputs, 2), *(MegviiUnit(outputs, outputs, 1) for _ in range(count - 1))]
            stem = outputs
        self.features = nn.Sequential(*features)
        self.conv_last = nn.Sequential(*conv_norm(stem, head), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(head, classes, bias=False))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = [F.max_pool2d(self.first_conv(x), 3, 2, padding=1)]
        for start, end in zip((0, *self.ends), self.ends, strict=False):
            maps.append(self.features[start:end](maps[-1]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv_last(self.feature_maps(x)[-1]).mean((2, 3)))


class TorchvisionUnit(nn.Module):
    """The first half of the channels passes; the result's halves are shuffled into one another."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = projection_branch(inputs, half) if stride == 2 else nn.Sequential()
        self.branch2 = main_branch(inputs if stride == 2 else half, half, half, stride)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x, x) if len(self.branch1) else x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat((self.branch1(first), self.branch2(second)), dim=1), 2)


class TorchvisionShuffleNetV2(nn.Module):
    """Images [N, 3, H, W] → logits [N, classes]."""

    def __init__(self, stem: int, channels: tuple[int, ...], units: tuple[int, ...], head: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*conv_norm(3, stem, 3, 2), nn.ReLU())
        stages = []
        for outputs, count in zip(channels, units, strict=True):
            later = (TorchvisionUnit(outputs, outputs, 1) for _ in range(count - 1))
            stages.append(nn.Sequential(TorchvisionUnit(stem, outputs, 2), *later))
            stem = outputs
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = nn.Sequential(*conv_norm(stem, head), nn.ReLU())
        self.fc = nn.Linear(head, classes)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        maps = [F.max_pool2d(self.conv1(x), 3, 2, padding=1)]
        for stage in (self.stage2, self.stage3, self.stage4):
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv5(self.feature_maps(x)[-1]).mean((2, 3)))


class Residual(nn.Module):
    """1×1 expansion where there is any, depthwise 3×3, 1×1 projection; `conv` numbers its parts as torchvision does."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        expand = [nn.Sequential(*conv_norm(inputs, middle), nn.ReLU6())] if expansion > 1 else []
        depthwise = nn.Sequential(*conv_norm(middle, middle, 3, stride, groups=middle), nn.ReLU6())
        self.conv = nn.Sequential(*expand, depthwise, *conv_norm(middle, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class TorchvisionMobileNetV2(nn.Module):
    """Images [N, 3, H, W] → logits [N, classes]; `stages` are rows (t, c, n, s) of the paper's table 2."""

    def __init__(self, stem: int, stages: list[tuple[int, int, int, int]], head: int, classes: int) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*conv_norm(3, stem, 3, 2), nn.ReLU6())]
        self.strides = [2]
        for expansion, outputs, repeats, stride in stages:
            for number in range(repeats):
                step = stride if number == 0 else 1
                features.append(Residual(stem, outputs, step, expansion))
                self.strides.append(self.strides[-1] * step)
                stem = outputs
        features.append(nn.Sequential(*conv_norm(stem, head), nn.ReLU6()))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, classes))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        last_of_stride = {}
        for stride, part in zip(self.strides, self.features, strict=False):
            x = part(x)
            last_of_stride[stride] = x
        return [last_of_stride[stride] for stride in (4, 8, 16, 32)]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
