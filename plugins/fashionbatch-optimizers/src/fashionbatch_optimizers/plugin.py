"""What this package offers to fashionbatch: optimizers of the library pytorch-optimizer.

Nothing here imports torch or pytorch_optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator

import fashionbatch

_DECAY = ("weight_decay",)
_OPTIMIZERS = (
    ("lion", "signs of a momentum, at a tenth of Adam's --lr (Chen et al. 2023)", _DECAY),
    ("prodigy", "Adam that finds its own rate: write --lr 1 (Mishchenko & Defazio 2024)", _DECAY),
    ("adan", "Adam with Nesterov's momentum of differences (Xie et al. 2022)", _DECAY),
    ("muon", "orthogonal steps for matrices, AdamW for the rest (Jordan et al. 2024)", _DECAY),
    (
        "schedule-free-adamw",
        "AdamW whose average needs no schedule (Defazio et al. 2024)",
        _DECAY,
    ),
    (
        "schedule-free-sgd",
        "SGD whose average needs no schedule (Defazio et al. 2024)",
        ("momentum", *_DECAY),
    ),
    ("lamb", "Adam by layers, for large batches (You et al. 2020)", _DECAY),
    ("adabelief", "Adam that trusts gradients it foresaw (Zhuang et al. 2020)", _DECAY),
    ("adopt", "Adam that converges with any beta2 (Taniguchi et al. 2024)", _DECAY),
    ("stable-adamw", "AdamW that clips its own steps (Wortsman et al. 2023)", _DECAY),
)


@fashionbatch.hookimpl
def fashionbatch_optimizers() -> Iterator[fashionbatch.OptimizerSpec]:
    """What torch.optim has not, or only for matrices."""
    for name, summary, options in _OPTIMIZERS:
        yield fashionbatch.OptimizerSpec(
            name=name,
            factory=f"fashionbatch_optimizers.factories:{name.replace('-', '_')}",
            summary=summary,
            options=options,
            requires="pip install fashionbatch-optimizers",
        )
