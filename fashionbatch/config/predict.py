"""How a catalogue is predicted."""

from __future__ import annotations

from dataclasses import dataclass

from fashionbatch.address import Location
from fashionbatch.config.executing import LOCAL, Executing
from fashionbatch.config.selecting import Selecting
from fashionbatch.errors import UsageError
from fashionbatch.fields import option
from fashionbatch.parse import parse_choice, parse_most
from fashionbatch.specs import SPLITS

FEATURE_DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Selecting, Executing):
    """How a catalogue is predicted; see :func:`fashionbatch.predict`."""

    model: Location | None = option(
        None, "Run (or its folder, or address) whose model predicts. [default: the newest in runs/]"
    )
    output: Location | None = option(
        None,
        "HDF5 file to make; or its address. [default: predictions/INPUT-RUN.h5]",
        "--output",
        "-o",
    )
    topk: int = option(5, "How many classes to store per image, best first.", min=1)
    probabilities: bool = option(False, "Store the probability of every class.")
    features: str = option(
        "pooled", "Layer whose output is stored: pooled (the bottleneck), a module's name, none."
    )
    feature_dtype: str = option("float32", "Type of the stored features.", choices=FEATURE_DTYPES)
    split: str | None = option(None, "Shards only: predict this split.", choices=SPLITS)
    limit: int | None = option(None, "Predict at most so many images.", min=1)
    ignore_labels: bool = option(
        False, "Accept a data set of other classes than the model's; its labels are not stored."
    )
    batch_size: int = option(32, "Images per forward pass.", "--batch-size", "-b", min=1)
    engine: str = option(
        "auto",
        "What runs the network: NAME[:k=v,...], such as eager, compile, or a plugin's; auto times "
        "them where the job is long enough.",
    )
    precision: str = option(
        "auto",
        "float32, bfloat16, float16 (autocast). auto: as the GPU can; float32 on a CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    workers: int | None = option(
        None,
        "Processes that read and decode images. [default: by cores and device]",
        "--workers",
        "-j",
        min=1,
    )
    devices: str | None = option(
        None, "Several devices, whole shards to each: 0,1 or cuda:0,cuda:1. [default: --device]"
    )
    image_seconds: float = option(
        30.0, "Most seconds for reading and decoding one image; longer, and it is a failure.", min=0
    )
    image_memory: float = option(
        2.0, "Most memory for decoding one image, in GiB; more, and it is a failure.", min=0.1
    )
    max_failures: str | None = option(
        None, "Stop where more images fail: N, or P% of all. [default: go on whatever fails]"
    )
    rate: float | None = option(
        None,
        "Images per second of each worker, to tell how long it takes. [default: timed]",
        above=0,
    )
    restart: bool = option(
        False, "Discard what an earlier run has finished. [default: go on with it]"
    )
    incremental: bool = option(
        False,
        "The catalogue has changed since the output was made: predict what is new or changed in "
        "it, and take over the rest.",
    )
    retry_failed: bool = option(False, "Try again what failed when the output was made.")
    keep_parts: bool = option(False, "Keep the parts that the output is merged from.")
    no_merge: bool = option(
        False,
        "Make a folder of parts in place of one file: nothing is copied, and every command reads "
        "it like a file. [default of --output: predictions/INPUT-RUN]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_choice(self.engine)
        if self.devices is not None and self.device != "auto":
            raise UsageError("--devices names all, and --device one: leave one of them out")
        if self.devices is not None and self.executor != LOCAL:
            raise UsageError(
                f"--devices names those of this machine: --executor {self.executor} has its own "
                "workers, each on --device"
            )
        if not self.device_names:
            raise UsageError(f"--devices {self.devices!r}: name some, such as 0,1")
        if self.max_failures is not None:
            parse_most(self.max_failures)
        if self.image_seconds == 0:
            raise UsageError("--image-seconds 0: it is above 0")
        if self.no_merge and self.keep_parts:
            raise UsageError("--no-merge keeps the parts in any case: leave --keep-parts out")
        if self.restart and (self.incremental or self.retry_failed):
            name = "incremental" if self.incremental else "retry-failed"
            raise UsageError(
                f"--restart discards what --{name} would go on with: leave one of them out"
            )

    @property
    def device_names(self) -> tuple[str, ...]:
        """Of torch; a number is that of a GPU."""
        if self.devices is None:
            return (self.device,)
        names = filter(None, (name.strip() for name in self.devices.split(",")))
        return tuple(f"cuda:{name}" if name.isdecimal() else name for name in names)
