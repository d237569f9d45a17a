"""Models of kinds that others report as broken by quantization (winml-cli's issue 179), and speech networks, from configurations.

Each is compressed by shipped recipes, unchanged; the table has the error of each output of the file, relative to the root mean
square of the original's, and its worst channel's, relative to that channel's spread. Weights are random and seeded, BatchNorm
statistics are those of the inputs. Rows that a TopK chooses (RT-DETR) are compared as a set.
Run: `python -m benchmarks.other_models [--only 'roberta*'] [--table]`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import dyncompress as dc
from benchmarks import cells, speech_nets
from benchmarks.gallery_tables import OTHERS, others_table
from benchmarks.judging import TARGET
from dyncompress.errors import DyncompressError

Built = tuple[nn.Module, list[Any]]


class _Chosen(nn.Module):
    """The named outputs of a network, as a tuple."""

    def __init__(self, net: nn.Module, *names: str) -> None:
        super().__init__()
        self.net, self.names = net, names

    def _of(self, found: Any) -> tuple[Tensor, ...]:
        return tuple(getattr(found, name) for name in self.names)


class _OfText(_Chosen):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return self._of(self.net(input_ids=input_ids, attention_mask=attention_mask))


class _OfImages(_Chosen):
    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return self._of(self.net(pixel_values=pixel_values))


def _text(words: int, count: int = 32) -> list[dict[str, Tensor]]:
    """Two batches of random sentences, padded to 24 and to 40 words."""
    batches = []
    for longest in (24, 40):
        lengths = torch.randint(longest // 2, longest + 1, (count, 1))
        mask = (torch.arange(longest) < lengths).long()
        batches.append({"input_ids": torch.randint(5, words, (count, longest)) * mask + (1 - mask), "attention_mask": mask})
    return batches


def _images(count: int = 32) -> list[dict[str, Tensor]]:
    return [{"pixel_values": torch.randn(8, 3, 128, 128)} for _ in range(count // 8)]


@torch.no_grad()
def _settled(net: nn.Module) -> nn.Module:
    """The network with BatchNorm statistics of its inputs."""
    for part in net.train().modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.5
    for batch in _images(64):
        net(**batch)
    return net.eval()


def roberta() -> Built:
    """RoBERTa with six layers, a classifier."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1024}
    config = RobertaConfig(vocab_size=2000, max_position_embeddings=130, num_labels=5, **sizes)
    return _OfText(RobertaForSequenceClassification(config).eval(), "logits"), _text(2000)


def distilbert() -> Built:
    """DistilBERT with four layers, which marks the start and the end of an answer."""
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering

    config = DistilBertConfig(vocab_size=2000, dim=256, n_layers=4, n_heads=8, hidden_dim=1024, max_position_embeddings=128)
    return _OfText(DistilBertForQuestionAnswering(config).eval(), "start_logits", "end_logits"), _text(2000)


def mobilevit() -> Built:
    """MobileViT small on images of 128 pixels; its random weights give nearly the same output for every image."""
    from transformers import MobileViTConfig, MobileViTForImageClassification

    net = MobileViTForImageClassification(MobileViTConfig(image_size=128, num_labels=10))
    return _OfImages(_settled(net), "logits"), _images()


def detr() -> Built:
    """DETR with a small ResNet and 20 queries."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], out_features=["stage4"])
    without = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 20, "num_labels": 10}
    config = DetrConfig(backbone_config=backbone, d_model=128, **without, **layers, **heads)
    return _OfImages(DetrForObjectDetection(config).eval(), "logits", "pred_boxes"), _images()


def rtdetr() -> Built:
    """RT-DETR with 30 queries, chosen by a TopK: where scores are close, rounding chooses others."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    stages = {"hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1], "out_features": ["stage2", "stage3", "stage4"]}
    sizes = {"encoder_hidden_dim": 64, "encoder_in_channels": [64, 128, 256], "encoder_ffn_dim": 128, "d_model": 64}
    more = {"decoder_in_channels": [64, 64, 64], "decoder_ffn_dim": 128, "decoder_layers": 2, "decoder_attention_heads": 4}
    heads = {"encoder_attention_heads": 4, "num_queries": 30, "num_labels": 10, "num_denoising": 0}
    backbone = RTDetrResNetConfig(embedding_size=16, **stages)
    net = RTDetrForObjectDetection(RTDetrConfig(backbone_config=backbone, **sizes, **more, **heads))
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    for name, parameter in net.named_parameters():
        if "class_embed" in name or "score_head" in name:
            nn.init.normal_(parameter, std=0.3)
    return _OfImages(_settled(net), "logits", "pred_boxes"), _images()


class Yolo(nn.Module):
    """Two scales with boxes in pixels and probabilities of classes in one output, as YOLO's heads have."""

    def __init__(self) -> None:
        """Build the network."""
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())

        self.stem, self.fine, self.coarse = nn.Sequential(block(3, 16, 2), block(16, 32, 2)), block(32, 64, 2), block(64, 128, 2)
        self.up, self.joined = nn.Upsample(scale_factor=2), block(192, 64)
        self.boxes = nn.ModuleList([nn.Conv2d(64, 4, 1), nn.Conv2d(128, 4, 1)])
        self.classes = nn.ModuleList([nn.Conv2d(64, 10, 1), nn.Conv2d(128, 10, 1)])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[n, places, 4 + 10]`."""
        fine = self.fine(self.stem(pixel_values))
        coarse = self.coarse(fine)
        maps = self.joined(torch.cat([fine, self.up(coarse)], 1)), coarse
        found = []
        for x, boxes, classes, stride in zip(maps, self.boxes, self.classes, (8, 16), strict=True):
            rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
            grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).float()
            box = boxes(x).sigmoid()
            centre, size = (2 * box[:, :2] - 0.5 + grid) * stride, (2 * box[:, 2:]) ** 2 * stride * 4
            found.append(torch.cat([centre, size, classes(x).sigmoid()], 1).flatten(2))
        return torch.cat(found, 2).transpose(1, 2)


def yolo() -> Built:
    """The network with YOLO's heads."""
    return _settled(Yolo()), _images()


MODELS: Mapping[str, Callable[[], Built]] = {
    "roberta": roberta,
    "distilbert": distilbert,
    "mobilevit": mobilevit,
    "detr": detr,
    "rt-detr": rtdetr,
    "yolo-like": yolo,
    "LSTM speaker encoder": speech_nets.speaker_encoder,
    "ECAPA-like": speech_nets.ecapa,
    "wav2vec-like": speech_nets.wav2vec,
}
RECIPES = ("edge-int8", "edge-int4", "smallest")
SPEECH = ("LSTM speaker encoder", "ECAPA-like", "wav2vec-like")
KEYS = [f"{name} | {recipe}" for name in MODELS for recipe in RECIPES if recipe == "edge-int8" or name in SPEECH]


def cell_of(key: str) -> cells.Cell:
    """The errors of all outputs of one file, or the sentence that it was refused with."""
    name, recipe = key.split(" | ")
    torch.manual_seed(0)
    net, calibration = MODELS[name]()
    began = time.perf_counter()
    try:
        file = dc.compress(net, recipe, target=TARGET, calibration=calibration)
    except DyncompressError as error:
        return cells.failed(error)
    outputs = {
        output.name: {"error": output.relative_error, "channel": output.channel, "channel_error": output.channel_error}
        for output in file.parity.outputs
    }
    return {
        "verdict": "ok",
        "bytes": len(file.content),
        "float_bytes": file.float_bytes,
        "outputs": outputs,
        "left_alone": file.plan.share_left_alone["weights"],
        "seconds": time.perf_counter() - began,
    }


def told(key: str, cell: cells.Cell) -> str:
    """The line that is printed for a finished cell."""
    if cell["verdict"] != "ok":
        return f"{key}: {cell['sentence']}"
    worst = ", ".join(f"{name} {100 * output['error']:.2g} %" for name, output in cell["outputs"].items())
    return f"{key}: {cell['bytes']:,} of {cell['float_bytes']:,} bytes, {worst}"


if __name__ == "__main__":
    cells.script(__doc__, KEYS, OTHERS, cell_of, told, others_table)
