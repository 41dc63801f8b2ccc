"""What this package offers to fashionbatch: regularizers that look for flat minima.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import fashionbatch


@fashionbatch.hookimpl
def fashionbatch_regularizers() -> Iterator[fashionbatch.RegularizerSpec]:
    """Sharpness-aware minimization, as it was and adaptive."""
    for name, factory, summary in (
        ("sam", "Sam", "the gradient where it is worst within rho (Foret et al. 2021)"),
        ("asam", "Asam", "the same within a share rho of each weight (Kwon et al. 2021)"),
    ):
        yield fashionbatch.RegularizerSpec(
            name=name,
            factory=f"fashionbatch_sam.minimization:{factory}",
            summary=summary,
            requires="pip install fashionbatch-sam",
        )
