"""The components: each does as little as its kind allows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fashionbatch
import PIL.ImageOps
import torch
from torch import Tensor, nn


class HelloNet(nn.Module):
    """A backbone: normalized images to a vector each, without a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """float32 ``[N, 3, H, W]`` → ``[N, 16]``; the head on top is made by fashionbatch."""
        maps: Tensor = self.second(self.first(images))
        return maps.mean(dim=(2, 3))


class HelloSigns(torch.optim.Optimizer):
    """An optimizer: torch's base class keeps the groups and the state."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves what has a gradient; its group's rate is set before every step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class HelloNoise(fashionbatch.Regularizer):
    """A regularizer: overrides the one method that it needs.

    Args:
        spread: of the noise, on the scale 0..255.
    """

    def __init__(self, spread: float = 4.0) -> None:
        if spread < 0:  # the user sees this in one line
            raise ValueError(f"spread is at least 0, not {spread}")
        self.spread = spread

    def on_batch(
        self, images: Tensor, targets: fashionbatch.Targets
    ) -> tuple[Tensor, fashionbatch.Targets]:
        """New images; those given stay as they are."""
        # from the CPU's generator, whose state is in every checkpoint: a resumed run is the same
        noise = torch.randn(images.shape).to(images.device)
        return images.float() + self.spread * noise, targets


def hello_halves(epochs: int, share: float = 0.5) -> Callable[[float], float]:
    """A schedule: from the epoch to the factor on the learning rate."""
    return lambda epoch: 1.0 if epoch < share * epochs else 0.5


class HelloLines(fashionbatch.Logger):
    """A logger: gets the run's folder, and a row of its history behind each epoch."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "hello.txt").open("a")  # a resumed run goes on with it

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Writes a line."""
        print(f"epoch {row['epoch']}: {row['val_loss']:.3f}", file=self.file, flush=True)

    def close(self) -> None:
        """Comes at the end, also behind an error."""
        self.file.close()


class HelloNegative(fashionbatch.Visualizer):
    """A visualizer: photographs to pictures, with words about them."""

    def draw(
        self, explained: fashionbatch.Explained, photos: Sequence[fashionbatch.Photo]
    ) -> Iterator[fashionbatch.Picture]:
        """One picture for each photograph."""
        with torch.inference_mode():
            logits = explained.logits(explained.inputs([photo.image for photo in photos]))
        for photo, chosen in zip(photos, explained.answer(logits).chosen.tolist(), strict=True):
            yield fashionbatch.Picture(
                name=photo.name,
                image=PIL.ImageOps.invert(photo.image),
                about={"Answer": explained.answers[chosen]},
            )


class HelloList(fashionbatch.Source):
    """A source: yields items, each with a name, its bytes or where they lie, and what is known."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> Iterator[fashionbatch.Item | fashionbatch.Failure]:
        """One for each line; what is none is not lost without a word."""
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            label, _, name = line.partition(" ")
            if name:
                path = self.path.parent / name
                yield fashionbatch.Item(name=name, path=path, label=label, line=number)
            else:
                yield fashionbatch.Failure(
                    name=line, stage="source", reason="no file's name", line=number
                )


class HelloEngine(fashionbatch.Engine):
    """An engine: prepares all it can at once, then answers batches of one shape."""

    def __init__(self, job: fashionbatch.EngineJob) -> None:
        if job.precision != "float32":
            raise ValueError(f"it knows float32 only, not {job.precision}")
        self.device = job.device
        self.module = copy.deepcopy(job.module).to(job.device)  # the job's own stays as it is

    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 images to what the module gives for them: a tuple of tensors."""
        with torch.inference_mode():
            answers: tuple[Tensor, ...] = self.module(images.to(self.device))
        return answers


class HelloAlone(fashionbatch.Executor):
    """An executor: takes leases, has workers do them, and says what became of each."""

    local = True  # what it does for others is done on this machine

    def run(self, lending: fashionbatch.Lending) -> None:
        """Does all of it by one process; by a new one where that dies."""
        while not lending.over:
            if lending.asked:
                raise fashionbatch.StoppedHere
            process = fashionbatch.WorkerProcess(lending.worker, lending.places[0])
            lease = None
            try:
                for event, values in process.events():
                    lending.hear(lease, event, values)
                lending.ready(process.place)
                while (lease := lending.take(1)) is not None:
                    process.lend(lease)
                    for event, values in process.events():
                        lending.hear(lease, event, values)
                    lending.finish(lease)
            except EOFError:  # it has died
                if lease is None:
                    lending.unready(process.place, process.end())
                else:
                    lending.lose(lease, process.end())
            finally:
                process.end()
