"""Tiny networks of the transformers library: text, images, sound and series.

Configurations are shrunk by the names of their fields (`TINY`), then by what an entry adds. The
networks keep their own blocks, masks and heads.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from zoo import Network
from zoo.vision import declare

__all__ = ["NETWORKS", "build"]

_WORDS: Final = 60
TINY: Final[dict[str, Any]] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim", "dff"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 48),
    "shared_expert_intermediate_size": 48,
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("vocab_size", "decoder_vocab_size"), _WORDS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    "type_vocab_size": 2,
    **dict.fromkeys(("pad_token_id", "decoder_start_token_id", "forced_eos_token_id"), 1),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"), 2),
    "use_cache": False,
    "num_labels": 10,
}
"""What fields of these names become, wherever a configuration has them."""

_ENCODERS: Final[dict[str, dict[str, Any]]] = {
    "Albert": {"embedding_size": 16},
    "Bert": {},
    "BigBird": {"attention_type": "original_full"},
    "Canine": {},
    "ConvBert": {"embedding_size": 32},
    "Deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DistilBert": {"hidden_dim": 48},
    "Electra": {"embedding_size": 16},
    "Esm": {"position_embedding_type": "rotary"},
    "FNet": {},
    "Flaubert": {},
    "Funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_inner": 48},
    "LayoutLM": {},
    "MPNet": {},
    "MegatronBert": {},
    "MobileBert": {
        "intra_bottleneck_size": 16, "embedding_size": 16, "num_feedforward_networks": 2,
    },
    "ModernBert": {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2},
    "Nystromformer": {"num_landmarks": 4, "segment_means_seq_len": 16},
    "RemBert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "RoFormer": {"embedding_size": 32},
    "Roberta": {},
    "SqueezeBert": {"embedding_size": 32, "intermediate_size": 64},
    "XLNet": {"d_inner": 48},
}  # fmt: skip
_DECODERS: Final[dict[str, dict[str, Any]]] = {
    "BioGpt": {},
    "Bloom": {},
    "CodeGen": {"rotary_dim": 4},
    "Cohere": {},
    "Exaone4": {"sliding_window": 8},
    "Falcon": {},
    "GPTBigCode": {},
    "GPTJ": {"rotary_dim": 4},
    "GPTNeo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "GPTNeoX": {},
    "Gemma": {},
    "Gemma2": {"sliding_window": 8},
    "Glm": {},
    "Granite": {},
    "Llama": {},
    "Mistral": {},
    "Mpt": {},
    "Nemotron": {},
    "OPT": {"word_embed_proj_dim": 32},
    "Olmo": {},
    "Olmo2": {},
    "Persimmon": {},
    "Phi": {},
    "Phi3": {},
    "Qwen2": {},
    "Qwen3": {},
    "SmolLM3": {},
    "StableLm": {},
    "Starcoder2": {},
    "XGLM": {},
    # mixtures of experts
    "GraniteMoe": {},
    "JetMoe": {"kv_channels": 8},
    "Mixtral": {},
    "Olmoe": {},
    "Qwen2Moe": {},
    "Qwen3Moe": {},
    # state spaces and recurrences
    "FalconMamba": {"state_size": 4},
    "Mamba": {"state_size": 4},
    "Mamba2": {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "RecurrentGemma": {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
    "Rwkv": {"attention_hidden_size": 32},
}
_TRANSLATORS: Final[dict[str, dict[str, Any]]] = {
    "Bart": {},
    "BigBirdPegasus": {"attention_type": "original_full"},
    "Blenderbot": {},
    "LongT5": {},
    "M2M100": {},
    "MBart": {},
    "MT5": {},
    "Pegasus": {},
    "ProphetNet": {"num_encoder_layers": 2, "num_encoder_attention_heads": 4,
                   "num_decoder_attention_heads": 4},
    "SwitchTransformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "T5": {},
}  # fmt: skip
_IMAGES: Final[dict[str, dict[str, Any]]] = {
    "Beit": {"image_size": 32, "patch_size": 8},
    "Bit": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    "Cvt": {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "DeiT": {"image_size": 32, "patch_size": 8},
    "Dinov2": {"image_size": 32, "patch_size": 8},
    "FocalNet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
                 "focal_windows": [3, 3], "hidden_sizes": [16, 32]},
    "Hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1],
              "num_heads": [1, 2, 4, 8], "masked_unit_size": [8, 8], "query_stride": [2, 2],
              "patch_stride": [4, 4], "num_query_pool": 2},
    "Levit": {"image_size": 64, "hidden_sizes": [16, 32, 48], "depths": [1, 1, 1],
              "num_attention_heads": [2, 2, 4], "key_dim": [8, 8, 8]},
    "MobileNetV2": {"image_size": 32, "depth_multiplier": 0.5},
    "MobileViT": {"image_size": 64, "hidden_sizes": [16, 24, 32], "hidden_size": 32,
                  "neck_hidden_sizes": [8, 8, 16, 16, 16, 24, 32]},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
    "PoolFormer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "Pvt": {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4]},
    "RegNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
               "groups_width": 8},
    "ResNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]},
    "Segformer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                  "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16},
    "Siglip": {"vision_config": {"image_size": 32, "patch_size": 8, "hidden_size": 32,
                                 "num_hidden_layers": 2, "num_attention_heads": 4,
                                 "intermediate_size": 48}},
    "Swin": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
             "num_heads": [2, 4], "window_size": 4},
    "Swinv2": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2],
               "num_heads": [2, 4], "window_size": 4},
    "SwiftFormer": {"image_size": 64, "embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "ViT": {"image_size": 32, "patch_size": 8},
}  # fmt: skip
_CONVOLVED: Final[dict[str, Any]] = {
    "conv_dim": [16, 16], "conv_kernel": [8, 4], "conv_stride": [4, 2],
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_feat_extract_layers": 2,
}  # fmt: skip
_SOUNDS: Final[dict[str, dict[str, Any]]] = {
    "Data2VecAudio": {**_CONVOLVED, "conv_pos_kernel_size": 5},
    "Hubert": _CONVOLVED,
    "SEW": {**_CONVOLVED, "squeeze_factor": 2},
    "Wav2Vec2": _CONVOLVED,
    "Wav2Vec2Conformer": {**_CONVOLVED, "conv_depthwise_kernel_size": 5},
    "WavLM": _CONVOLVED,
}
_OTHERS: Final[dict[str, dict[str, Any]]] = {
    "CTRLLMHeadModel": {},
    "GPT2LMHeadModel": {},
    "MarianMTModel": {},
    "OpenAIGPTLMHeadModel": {},
    "ASTForAudioClassification": {"max_length": 32, "num_mel_bins": 16, "patch_size": 8,
                                   "time_stride": 8, "frequency_stride": 8},
    "CLIPVisionModelWithProjection": {"image_size": 32, "patch_size": 8, "projection_dim": 16},
    "GLPNForDepthEstimation": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                                "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16},
    "PatchTSTForPrediction": {"num_input_channels": 3, "context_length": 32, "patch_length": 8,
                               "patch_stride": 8, "prediction_length": 8},
    "SegformerForSemanticSegmentation": _IMAGES["Segformer"],
    "VideoMAEForVideoClassification": {"image_size": 32, "patch_size": 8, "num_frames": 4},
    "WhisperForConditionalGeneration": {"num_mel_bins": 16, "max_source_positions": 16,
                                         "max_target_positions": 32},
    "YolosForObjectDetection": {"image_size": [32, 32], "patch_size": 8,
                                 "num_detection_tokens": 5},
}  # fmt: skip

NETWORKS: Final[dict[str, dict[str, Any]]] = {
    **{f"{name}ForSequenceClassification": own for name, own in _ENCODERS.items()},
    **{f"{name}ForCausalLM": own for name, own in _DECODERS.items()},
    **{f"{name}ForConditionalGeneration": own for name, own in _TRANSLATORS.items()},
    **{f"{name}ForImageClassification": own for name, own in _IMAGES.items()},
    **{f"{name}ForCTC": own for name, own in _SOUNDS.items()},
    **_OTHERS,
}
"""By class; what its configuration gets beside `TINY`."""


class Answer(nn.Module):
    """A network of the library as tensors to a tensor: its logits, nothing of its insides."""

    def __init__(self, net: nn.Module, reads: tuple[str, ...], answer: str) -> None:
        super().__init__()
        self.net, self.reads, self.answer = net, reads, answer

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns the answer to inputs in the order of `reads`."""
        named = dict(zip(self.reads, inputs, strict=True))
        return getattr(self.net(**named, return_dict=True), self.answer)


def build(name: str) -> Network:
    """Returns one of `NETWORKS`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    declare()  # transformers imports torchvision where it is installed
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    cls: Any = getattr(transformers, name)
    fresh = cls.config_class()
    aliases, own = getattr(fresh, "attribute_map", {}), NETWORKS[name]
    known = {*vars(fresh), *aliases}
    tiny = {key: value for key, value in TINY.items() if key in known}
    config = cls.config_class(
        **{key: value for key, value in tiny.items() if not {key, aliases.get(key)} & {*own}}, **own
    )
    model = cls(config).eval()
    reads, inputs = _inputs(cls.main_input_name, config)
    answer = _ANSWERS.get(name.partition("For")[2] or name, "logits")
    return Network(Answer(model, reads, answer).eval(), inputs)


_ANSWERS: Final = {
    "DepthEstimation": "predicted_depth",
    "Prediction": "prediction_outputs",
    "CLIPVisionModelWithProjection": "image_embeds",
}


def _inputs(main: str, config: Any) -> tuple[tuple[str, ...], Callable[[int], tuple[Tensor, ...]]]:
    """Returns which arguments a network is given, and how to make them."""
    own = getattr(config, "vision_config", config)
    side = getattr(own, "image_size", 64)
    side = side[0] if isinstance(side, (list, tuple)) else side
    makers: dict[str, Callable[[int], Tensor]] = {
        "input_ids": lambda samples: torch.randint(3, _WORDS, (samples, 16)),
        "input_values": lambda samples: torch.randn(samples, 400),
        "past_values": lambda samples: torch.randn(samples, config.context_length, 3),
        "pixel_values": lambda samples: torch.randn(samples, 3, side, side),
        "input_features": lambda samples: torch.randn(
            samples, config.num_mel_bins, 2 * config.max_source_positions
        ),
    }
    if hasattr(config, "num_frames"):
        makers["pixel_values"] = lambda n: torch.randn(n, config.num_frames, 3, side, side)
    if hasattr(config, "time_stride"):
        makers["input_values"] = lambda n: torch.randn(n, config.max_length, config.num_mel_bins)
    reads = [(main, makers[main])]
    if config.is_encoder_decoder:
        reads.append(("decoder_input_ids", lambda n: torch.randint(3, _WORDS, (n, 7))))
    return (
        tuple(name for name, _ in reads),
        lambda samples: tuple(make(samples) for _, make in reads),
    )
