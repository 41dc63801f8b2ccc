"""The built-in components, handed over through the same hooks as everyone's."""

from __future__ import annotations

from collections.abc import Iterator

from fashionbatch.builtin.torchvision_table import FAMILIES
from fashionbatch.hookspecs import hookimpl
from fashionbatch.specs import (
    BackboneSpec,
    EngineSpec,
    ExecutorSpec,
    HeadSpec,
    LoggerSpec,
    OptimizerSpec,
    Preprocessing,
    RegularizerSpec,
    ScheduleSpec,
    SourceSpec,
    VisualizerSpec,
)

_TORCHVISION = "fashionbatch.builtin.torchvision_networks"
_SCHEDULES = "fashionbatch.builtin.schedules"


@hookimpl
def fashionbatch_backbones() -> Iterator[BackboneSpec]:
    """torchvision's classification networks, and a small one for small images."""
    for family in FAMILIES:
        for network in family.networks:
            yield BackboneSpec(
                name=network.name,
                factory=f"{_TORCHVISION}:network.{network.name}",
                summary=f"torchvision's {network.name}",
                preprocessing=Preprocessing(
                    size=network.size,
                    resize=network.resize,
                    interpolation=network.interpolation,
                    mean=network.mean,
                    std=network.std,
                ),
                blocks=family.blocks,
                cam_layer=family.cam_layer,
                cam_layout=family.cam_layout,
                head=family.head,
                weights={"imagenet": f"{_TORCHVISION}:imagenet.{network.name}"},
                parameters=network.parameters,
                shown_layers=network.shown_layers,
            )
    yield BackboneSpec(
        name="small-resnet",
        factory="fashionbatch.builtin.small_resnet:SmallResNet",
        summary="three residual blocks for images of about 28 pixels; trains on a CPU",
        preprocessing=Preprocessing(size=28, resize=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        blocks=("blocks.*",),
        cam_layer="blocks",
        head=HeadSpec(),
        parameters=0.3,
    )


@hookimpl
def fashionbatch_optimizers() -> Iterator[OptimizerSpec]:
    """Those of torch.optim that train any network.

    Left out: LBFGS (evaluates the loss several times a step), SparseAdam (sparse gradients only)
    and Muon (matrices only).
    """
    decay = ("weight_decay",)
    yield OptimizerSpec(
        name="sgd",
        factory="fashionbatch.builtin.optimizers:sgd",
        summary="stochastic gradient descent with momentum",
        options=("momentum", *decay),
    )
    for name, attribute, summary, options in (
        ("rmsprop", "RMSprop", "RMSProp (Hinton 2012)", ("momentum", *decay)),
        ("adam", "Adam", "Adam (Kingma & Ba 2015)", decay),
        ("adamw", "AdamW", "Adam with decoupled weight decay (Loshchilov & Hutter 2019)", decay),
        ("adagrad", "Adagrad", "a rate for each weight by its past (Duchi et al. 2011)", decay),
        ("adadelta", "Adadelta", "Adagrad that forgets, made for --lr 1 (Zeiler 2012)", decay),
        ("adamax", "Adamax", "Adam with the largest gradient (Kingma & Ba 2015)", decay),
        ("nadam", "NAdam", "Adam with Nesterov's momentum (Dozat 2016)", decay),
        ("radam", "RAdam", "Adam with rectified first steps (Liu et al. 2020)", decay),
        ("asgd", "ASGD", "gradient descent with a rate that falls (Polyak & Juditsky 1992)", decay),
        ("rprop", "Rprop", "steps by the gradient's sign, for whole batches (Riedmiller 1993)", ()),
        ("adafactor", "Adafactor", "Adam with little memory (Shazeer & Stern 2018)", decay),
    ):
        yield OptimizerSpec(
            name=name, factory=f"torch.optim:{attribute}", summary=summary, options=options
        )


@hookimpl
def fashionbatch_regularizers() -> Iterator[RegularizerSpec]:
    """The paper's modifications, and what is common today."""
    for name, factory, summary in (
        ("l2-kernel", "regularizers:L2Kernel", "weight·Σw² over the head's kernels"),
        (
            "l2-activity",
            "regularizers:L2Activity",
            "weight·Σy² over the head's outputs, per image",
        ),
        ("clip-grad", "regularizers:ClipGrad", "one norm over all gradients, at most max_norm"),
        (
            "early-stopping",
            "regularizers:EarlyStopping",
            "stop after patience epochs without a lower val loss",
        ),
        (
            "label-smoothing",
            "mixing:LabelSmoothing",
            "weight of each target shared out (Szegedy et al. 2016)",
        ),
        ("mixup", "mixing:Mixup", "pairs of images and targets mixed (Zhang et al. 2018)"),
        ("cutmix", "mixing:Cutmix", "a rectangle of another image (Yun et al. 2019)"),
        (
            "random-erasing",
            "mixing:RandomErasing",
            "a rectangle of random pixels in a share p of images (Zhong et al. 2017)",
        ),
        ("dropout", "dropping:Dropout", "rate p in front of the head's last layer"),
        (
            "stochastic-depth",
            "dropping:StochasticDepth",
            "residual branches left out, up to rate p (Huang et al. 2016)",
        ),
        ("ema", "averaging:Ema", "validate and save a moving average of the weights"),
    ):
        yield RegularizerSpec(name=name, factory=f"fashionbatch.builtin.{factory}", summary=summary)


@hookimpl
def fashionbatch_schedules() -> Iterator[ScheduleSpec]:
    """The paper's two decays, a constant rate, and what is common today."""
    for name, attribute, summary in (
        ("constant", "constant", "the same rate throughout"),
        ("step", "step", "drop^floor(epoch / epochs_drop); 0.5 and 10 as in the paper"),
        ("exponential", "exponential", "gamma^epoch; 0.9 as in the paper"),
        ("cosine", "cosine", "half a cosine down to zero (Loshchilov & Hutter 2017)"),
        ("polynomial", "polynomial", "(1 - epoch / epochs)^power; 1 is a straight line to zero"),
        ("plateau", "Plateau", "times factor after patience epochs without a lower val loss"),
    ):
        yield ScheduleSpec(name=name, factory=f"{_SCHEDULES}:{attribute}", summary=summary)


@hookimpl
def fashionbatch_loggers() -> Iterator[LoggerSpec]:
    """TensorBoard."""
    yield LoggerSpec(
        name="tensorboard",
        factory="fashionbatch.builtin.tensorboard:TensorBoard",
        summary="training and validation in one plot, in the run's tensorboard/",
        requires="pip install 'fashionbatch[tensorboard]'",
    )


@hookimpl
def fashionbatch_visualizers() -> Iterator[VisualizerSpec]:
    """What the layers see, and where the network looked."""
    yield VisualizerSpec(
        name="activations",
        factory="fashionbatch.builtin.activations:Activations",
        summary="the input as the network sees it, and channel maps of its layers",
    )
    yield VisualizerSpec(
        name="grad-cam",
        factory="fashionbatch.builtin.grad_cam:GradCam",
        summary="where the network looked for its class (Selvaraju et al. 2017)",
    )
    yield VisualizerSpec(
        name="occlusion",
        factory="fashionbatch.builtin.occlusion:Occlusion",
        summary="what the class needs: its probability with parts hidden (Zeiler & Fergus 2014)",
    )
    yield VisualizerSpec(
        name="class-maximization",
        factory="fashionbatch.builtin.dreaming:ClassMaximization",
        summary="what the network takes for a class, from noise or an image (Simonyan et al. 2014)",
        needs_images=False,
    )
    yield VisualizerSpec(
        name="deep-dream",
        factory="fashionbatch.builtin.dreaming:DeepDream",
        summary="more of what a layer finds in an image (Mordvintsev et al. 2015)",
    )
    yield VisualizerSpec(
        name="curves",
        factory="fashionbatch.builtin.charts:Curves",
        summary="how the model's training went, epoch by epoch",
        needs_images=False,
        needs_model=False,
    )
    for name, attribute, summary in (
        ("confusion", "Confusion", "what is taken for what, as a matrix"),
        ("histograms", "Histograms", "items by label, by prediction, by probability"),
        ("embedding", "Embedding", "photographs on a map by their features"),
    ):
        yield VisualizerSpec(
            name=name,
            factory=f"fashionbatch.builtin.charts:{attribute}",
            summary=summary,
            needs_images=False,
            needs_predictions=True,
            needs_model=False,
        )


@hookimpl
def fashionbatch_sources() -> Iterator[SourceSpec]:
    """Folders, tables, DeepFashion, IDX files, our own data sets, tar files made elsewhere."""
    sources = "fashionbatch.sources"
    for name, module, attribute, detect, summary in (
        (
            "folder",
            "folder",
            "FolderSource",
            "is_folder",
            "class folders, split folders above them, or a flat folder without labels",
        ),
        ("table", "table", "TableSource", "is_table", "a CSV, TSV or Parquet file of image paths"),
        (
            "deepfashion",
            "deepfashion",
            "DeepFashionSource",
            "is_deepfashion",
            "DeepFashion Category and Attribute Prediction (Liu et al. 2016)",
        ),
        ("idx", "idx", "IdxSource", "is_idx", "IDX files of images and labels, as MNIST has them"),
        (
            "webdataset",
            "webdataset",
            "WebdatasetSource",
            "is_webdataset",
            "tar files in WebDataset's layout, made elsewhere",
        ),
    ):
        yield SourceSpec(
            name=name,
            factory=f"{sources}.{module}:{attribute}",
            summary=summary,
            detect=f"{sources}.{module}:{detect}",
            generic=name == "folder",
            addresses=name in ("folder", "table"),
        )
    yield SourceSpec(
        name="dataset",
        factory="fashionbatch.shards.source:DatasetSource",
        summary="a data set that `fashionbatch shard` made, to be packed anew",
        detect="fashionbatch.shards.source:is_dataset",
    )


@hookimpl
def fashionbatch_engines() -> Iterator[EngineSpec]:
    """PyTorch, as it is and compiled."""
    engines = "fashionbatch.builtin.engines"
    yield EngineSpec(
        name="eager",
        factory=f"{engines}:Eager",
        summary="PyTorch as it is, channels last",
        devices=("cpu", "cuda", "mps"),
    )
    yield EngineSpec(
        name="compile",
        factory=f"{engines}:Compiled",
        summary="torch.compile with frozen weights: half a minute before the first batch",
        missing=f"{engines}:compiler_missing",
        preparation=40.0,
    )


@hookimpl
def fashionbatch_executors() -> Iterator[ExecutorSpec]:
    """This machine."""
    yield ExecutorSpec(
        name="local",
        factory="fashionbatch.execution.local:Local",
        summary="processes on this machine",
    )
