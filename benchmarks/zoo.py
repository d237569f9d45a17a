"""27 small architectures with random, seeded weights, which a model adapter must open, observe and export.

Run `python -m benchmarks.zoo` for the layers, weights, share left alone, channel groups and export of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar_resnet import CifarResNet

Built = tuple[nn.Module, dict[str, Tensor]]


def _images(size: int = 32, channels: int = 3, n: int = 2, name: str = "x") -> dict[str, Tensor]:
    return {name: torch.randn(n, channels, size, size)}


def _tokens(length: int = 16, words: int = 100) -> dict[str, Tensor]:
    ids = torch.randint(0, words, (2, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


# ---------------------------------------------------------------- from torch alone
def resnet() -> Built:
    """CIFAR ResNet-20, option A."""
    return CifarResNet(3), _images()


def vgg() -> Built:
    """Plain convolutions, pooling, a flattened classifier."""
    body = [_conv(3, 16), _conv(16, 16), nn.MaxPool2d(2), _conv(16, 32), _conv(32, 32), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10)), _images()


class Inception(nn.Module):
    """Parallel branches of different kernels, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16)
        self.narrow = _conv(16, 8, 1)
        self.middle = nn.Sequential(_conv(16, 8, 1), _conv(8, 16, 3))
        self.wide = nn.Sequential(_conv(16, 4, 1), _conv(4, 8, 5))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.narrow(x), self.middle(x), self.wide(x)], dim=1)
        return self.head(x.mean((2, 3)))


def inception() -> Built:
    """Branches that meet in a concatenation."""
    return Inception(), _images()


class Dense(nn.Module):
    """DenseNet: every layer reads all earlier ones; BatchNorm comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 8 * i) for i in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1, bias=False) for i in range(4))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(functional.relu(norm(x)))], dim=1)
        return self.head(x.mean((2, 3)))


def densenet() -> Built:
    """DenseNet, whose BatchNorm cannot be folded into the preceding layer."""
    return Dense(), _images()


def keyword_spotter() -> Built:
    """DS-CNN of Zhang et al. 2017: depthwise separable convolutions over a spectrogram."""
    blocks = [layer for _ in range(4) for layer in (_conv(32, 32, 3, groups=32), _conv(32, 32, 1))]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 12)]
    return nn.Sequential(_conv(1, 32, 5, 2), *blocks, *head), {"x": torch.randn(2, 1, 49, 10)}


class UNet(nn.Module):
    """A U-Net with transposed convolutions and concatenated skips, and one score for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _conv(3, 8), _conv(8, 16, stride=2), _conv(16, 32, stride=2)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, 2), _conv(32, 16)
        self.up1, self.join1 = nn.ConvTranspose2d(16, 8, 4, 2, 1), _conv(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(first)
        y = self.join2(torch.cat([self.up2(self.middle(second)), second], 1))
        return self.head(self.join1(torch.cat([self.up1(y), first], 1)))


def unet() -> Built:
    """A segmentation network, whose outputs are not one score for each image."""
    return UNet(), _images()


def autoencoder() -> Built:
    """An autoencoder of convolutions and transposed convolutions, some of them grouped."""
    down = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    up = [nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 3, 2, 1, 1)]
    return nn.Sequential(*down, *up), _images(28, 1)


class GRUClassifier(nn.Module):
    """A recurrent network; its weights are left alone, which the results have to show."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(13, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


def gru() -> Built:
    """A recurrent network over audio features."""
    return GRUClassifier(), {"x": torch.randn(2, 25, 13)}


class Causal(nn.Module):
    """One residual block of a temporal convolution network."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.gap = 2 * dilation
        self.first = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.second = nn.Conv1d(channels, channels, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first(functional.pad(x, (self.gap, 0))))
        return functional.relu(x + self.second(functional.pad(y, (self.gap, 0))))


def tcn() -> Built:
    """Dilated causal convolutions over a sequence."""
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(nn.Conv1d(13, 24, 1), Causal(24, 1), Causal(24, 2), Causal(24, 4), *head), {"x": torch.randn(2, 13, 40)}


class MixerBlock(nn.Module):
    """A block of perceptrons over tokens and over channels."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 96), nn.GELU(), nn.Linear(96, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.blocks = nn.Sequential(MixerBlock(16, 48), MixerBlock(16, 48))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def mixer() -> Built:
    """MLP-Mixer, with a convolution for the patches only and without attention."""
    return Mixer(), _images()


def torch_transformer() -> Built:
    """torch's own encoder layer; the input projection of its attention is a parameter, not a module."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), {"src": torch.randn(2, 12, 32)}


# ---------------------------------------------------------------- from the transformers package, by configuration
def _hugging(config: str, model: str, inputs: Callable[[], dict[str, Tensor]], **fields: object) -> Callable[[], Built]:
    """A builder of a small network of the transformers package."""

    def build() -> Built:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**fields)), inputs()

    build.__doc__ = f"{model} of the transformers package."
    return build


def _pixels(size: int = 32) -> Callable[[], dict[str, Tensor]]:
    return lambda: _images(size, name="pixel_values")


_TEXT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 10}

ZOO: dict[str, Callable[[], Built]] = {
    "resnet": resnet,
    "vgg": vgg,
    "inception": inception,
    "densenet": densenet,
    "keyword_spotter": keyword_spotter,
    "unet": unet,
    "autoencoder": autoencoder,
    "gru": gru,
    "tcn": tcn,
    "mixer": mixer,
    "torch_transformer": torch_transformer,
    "mobilenet_v1": _hugging(
        "MobileNetV1Config", "MobileNetV1ForImageClassification", _pixels(64), depth_multiplier=0.25, image_size=64, num_labels=10
    ),
    "mobilenet_v2": _hugging(
        "MobileNetV2Config", "MobileNetV2ForImageClassification", _pixels(64), depth_multiplier=0.25, image_size=64, num_labels=10
    ),
    "resnet_bottleneck": _hugging(
        "ResNetConfig",
        "ResNetForImageClassification",
        _pixels(),
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 2],
        num_labels=10,
    ),
    "regnet": _hugging(
        "RegNetConfig",
        "RegNetForImageClassification",
        _pixels(),
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 2],
        groups_width=8,
        num_labels=10,
    ),
    "efficientnet": _hugging(
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        _pixels(64),
        width_coefficient=0.35,
        depth_coefficient=0.3,
        image_size=64,
        hidden_dim=448,
        num_labels=10,
    ),
    "convnext": _hugging(
        "ConvNextConfig",
        "ConvNextForImageClassification",
        _pixels(64),
        hidden_sizes=[16, 32],
        depths=[1, 1],
        num_stages=2,
        num_labels=10,
    ),
    "swin": _hugging(
        "SwinConfig",
        "SwinForImageClassification",
        _pixels(),
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    ),
    "vit": _hugging("ViTConfig", "ViTForImageClassification", _pixels(), image_size=32, patch_size=8, **_VISION),
    "mobilevit": _hugging(
        "MobileViTConfig",
        "MobileViTForImageClassification",
        _pixels(64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 64],
        num_labels=10,
    ),
    "segformer": _hugging(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        _pixels(64),
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        num_attention_heads=[1, 2, 2, 4],
        num_labels=3,
    ),
    "audio_transformer": _hugging(
        "ASTConfig",
        "ASTForAudioClassification",
        lambda: {"input_values": torch.randn(2, 64, 32)},
        max_length=64,
        num_mel_bins=32,
        **_VISION,
    ),
    "wav2vec2": _hugging(
        "Wav2Vec2Config",
        "Wav2Vec2ForSequenceClassification",
        lambda: {"input_values": torch.randn(2, 4000)},
        conv_dim=[16, 16, 16],
        conv_stride=[5, 4, 4],
        conv_kernel=[10, 8, 4],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=16,
        **{**_TEXT, "num_labels": 10},
    ),
    "bert": _hugging("BertConfig", "BertForSequenceClassification", _tokens, **_TEXT, num_labels=3),
    "distilbert": _hugging(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        _tokens,
        vocab_size=100,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
    ),
    "gpt2": _hugging(
        "GPT2Config",
        "GPT2LMHeadModel",
        lambda: {"input_ids": _tokens()["input_ids"]},
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=4,
    ),
    "llama": _hugging(
        "LlamaConfig", "LlamaForCausalLM", lambda: {"input_ids": _tokens()["input_ids"]}, **_TEXT, num_key_value_heads=2
    ),
}


def build(name: str, seed: int = 0) -> Built:
    """A network of the zoo in eval mode and one batch of example inputs; the global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, inputs = ZOO[name]()
        _settle_norms(module)
        return module.eval(), inputs


def _settle_norms(module: nn.Module) -> None:
    """Set the statistics of every BatchNorm to values as after training; the initial ones would hide a wrong fold."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.2)


def examined(name: str) -> dict[str, object]:
    """Open, observe and export one network; returns the results."""
    from dyncompress.models.torch.opening import open_model
    from dyncompress.types import Bias, InputMoment, OutputFisher, OutputMoments, Spectrum, Weight

    module, inputs = build(name)
    start = time.perf_counter()
    model = open_model(module, inputs)
    layers, groups = model.layers(), model.channel_groups()
    needs = (Weight(), Bias(), Spectrum(), InputMoment(), OutputFisher(), OutputMoments())
    observed = sum(1 for _ in model.observe(needs, [inputs]))
    content, places, notes = model.to_onnx_with_notes(inputs)
    weights, macs = sum(layer.weights for layer in layers), max(model.macs, 1)
    alone = [layer for layer in layers if layer.left_alone]
    return {
        "name": name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "layers": len(layers),
        "weights": weights,
        "macs": model.macs,
        "weights_left_alone": round(sum(layer.weights for layer in alone) / weights, 4),
        "macs_left_alone": round(sum(layer.macs for layer in alone) / macs, 4),
        "groups": len(groups),
        "observed": observed,
        "onnx_bytes": len(content),
        "not_found_in_onnx": [layer.name for layer in layers if not layer.left_alone and layer.name not in places],
        "notes": [*model.notes, *notes],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Print one JSON line for each network that the command line names, or for all."""
    for name in sys.argv[1:] or ZOO:
        print(json.dumps(examined(name)), flush=True)


if __name__ == "__main__":
    main()
