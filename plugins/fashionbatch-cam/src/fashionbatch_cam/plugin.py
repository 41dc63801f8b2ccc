"""What this package offers to fashionbatch: torchcam's methods as visualizers.

Nothing here imports torch or torchcam.
"""

from __future__ import annotations

from collections.abc import Iterator

import fashionbatch

_METHODS = (
    ("cam", "linear:Cam", "where a network with one linear layer looked (Zhou et al. 2016)"),
    (
        "grad-cam-plus-plus",
        "gradients:GradCamPlusPlus",
        "Grad-CAM for several objects of a class (Chattopadhay et al. 2018)",
    ),
    (
        "smooth-grad-cam-plus-plus",
        "gradients:SmoothGradCamPlusPlus",
        "Grad-CAM++ over noisy copies of the image (Omeiza et al. 2019)",
    ),
    ("x-grad-cam", "gradients:XGradCam", "Grad-CAM weighed by the activations (Fu et al. 2020)"),
    (
        "layer-cam",
        "gradients:LayerCam",
        "Grad-CAM with a weight for each place (Jiang et al. 2021)",
    ),
    (
        "finer-cam",
        "gradients:FinerCam",
        "what tells a class from those most like it (Zhang et al. 2025)",
    ),
    (
        "score-cam",
        "masks:ScoreCam",
        "without gradients: each map as a mask (Wang et al. 2020); slow",
    ),
    ("ss-cam", "masks:SsCam", "Score-CAM with noise on the masks (Wang et al. 2020); very slow"),
    ("is-cam", "masks:IsCam", "Score-CAM over ever brighter masks (Naidu et al. 2020); very slow"),
)


@fashionbatch.hookimpl
def fashionbatch_visualizers() -> Iterator[fashionbatch.VisualizerSpec]:
    """Class activation maps."""
    for name, factory, summary in _METHODS:
        yield fashionbatch.VisualizerSpec(
            name=name,
            factory=f"fashionbatch_cam.{factory}",
            summary=summary,
            requires="pip install fashionbatch-cam",
        )
