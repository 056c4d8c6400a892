"""Networks as Hugging Face's transformers builds them, in a tiny configuration, as their
fine-tuning scripts call them. Kept aside but for the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
PLACES = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
EARS = {"conv_dim": (32,) * 7}


def built(kind: str, **fields: Any) -> Callable[[int, int, int], nn.Module]:
    """(vocab_size, feature_dim, seed) -> a network of a class of transformers, from its
    configuration alone.
    """

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import transformers

        network = getattr(transformers, f"{kind}ForCTC")
        made: nn.Module = network(network.config_class(vocab_size=vocab_size, **fields))
        return made

    return build


def parakeet(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
    """A fast conformer: separable subsampling in two dimensions, relative places, masked
    convolutions.
    """
    ears = {
        "num_mel_bins": feature_dim,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 16,
        "num_key_value_heads": 2,
        "layerdrop": 0.0,
    }
    return built("Parakeet", encoder_config={**LAYERS, **ears}, pad_token_id=0)(
        vocab_size, feature_dim, seed
    )


def read_subsampled(network: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """features (batch, frames, dim) -> logits (batch, steps, vocabulary), steps (batch,)."""
    shown = torch.arange(features.shape[1]) < frames[:, None]
    return network(
        input_features=features, attention_mask=shown
    ).logits, network._get_subsampling_output_length(frames)


WAVES: dict[str, Callable[[int, int, int], nn.Module]] = {
    "wav2vec2-base": built("Wav2Vec2", **LAYERS, **PLACES, **EARS),
    "HuBERT": built("Hubert", **LAYERS, **PLACES, **EARS),
    "WavLM": built("WavLM", **LAYERS, **PLACES, **EARS, num_buckets=32, max_bucket_distance=80),
    "data2vec": built(
        "Data2VecAudio",
        **LAYERS,
        **EARS,
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4,
    ),
    "wav2vec2-conformer": built(
        "Wav2Vec2Conformer", **LAYERS, **PLACES, **EARS, position_embeddings_type="rotary"
    ),
}
"""What hears raw waveforms (batch, samples)."""


def hear(network: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """features (batch, samples, 1) -> logits (batch, steps, vocabulary), steps (batch,): with the
    attention mask, as processors give it.
    """
    heard = (torch.arange(features.shape[1]) < frames[:, None]).long()
    return network(
        input_values=features[..., 0], attention_mask=heard
    ).logits, network._get_feat_extract_output_lengths(frames)


def wav2vec2_bert(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
    """A conformer on filterbanks with relative keys and an adapter-free head."""
    return built(
        "Wav2Vec2Bert",
        **LAYERS,
        feature_projection_input_dim=feature_dim,
        conv_depthwise_kernel_size=7,
    )(vocab_size, feature_dim, seed)


def read_filterbank(network: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """features (batch, frames, dim) -> logits (batch, frames, vocabulary), steps (batch,)."""
    shown = (torch.arange(features.shape[1]) < frames[:, None]).long()
    return network(input_features=features, attention_mask=shown).logits, frames
