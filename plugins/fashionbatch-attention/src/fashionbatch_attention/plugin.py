"""What this package offers to fashionbatch: attention in place of average pooling.

Nothing here imports torch, or the packages whose networks are changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import fashionbatch

from fashionbatch_attention.bases import BASES, LAYER

_NETWORKS = "fashionbatch_attention.networks"


@fashionbatch.hookimpl
def fashionbatch_backbones() -> Iterator[fashionbatch.BackboneSpec]:
    """Networks of other packages; their last block is the attention."""
    for name, base in BASES.items():
        yield fashionbatch.BackboneSpec(
            name=f"attention-{name}",
            factory=f"{_NETWORKS}:network.{name}",
            summary=f"{name} with attention in place of average pooling",
            requires=base.requires,
            preprocessing=base.preprocessing,
            blocks=(*base.blocks, LAYER),
            cam_layer=base.cam_layer,
            cam_layout=base.cam_layout,
            head=base.head,
            weights={"imagenet": f"{_NETWORKS}:imagenet.{name}"} if base.weights else {},
            parameters=base.parameters,
        )


@fashionbatch.hookimpl
def fashionbatch_regularizers() -> Iterator[fashionbatch.RegularizerSpec]:
    """Supervision of the attention."""
    yield fashionbatch.RegularizerSpec(
        name="landmark-attention",
        factory="fashionbatch_attention.landmarks:LandmarkAttention",
        summary="draws a network's attention to the landmarks that the shards know",
        needs_landmarks=True,
    )


@fashionbatch.hookimpl
def fashionbatch_visualizers() -> Iterator[fashionbatch.VisualizerSpec]:
    """The attention as a picture."""
    yield fashionbatch.VisualizerSpec(
        name="attention",
        factory="fashionbatch_attention.heat:Attention",
        summary="which places of the photograph a network with attention pools from",
    )
