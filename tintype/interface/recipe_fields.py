"""The fields of a recipe, for editors and type checkers: written by `python tests/fields.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict


class RecipeFields(TypedDict, total=False):
    """The fields of a recipe.

    Images:
        task: What the network learns (`tintype list tasks`), or a task of your own:
            my_task.py:MyTask.
        data: Name of a data set, a folder of images, a CSV file, shards (.tar, .parquet, s3://...),
            or a function of your own that returns images and labels: my_data.py:load.
        data_root: Folder that already holds the files of the data set.
        image_size: Size of the images in pixels: one side, or [height, width].
        resize: How an image is brought to image_size.
        crop_fraction: Central part that resize: crop keeps (default: the backbone's own, or 1).
        interpolation: Filter for resizing (default: the backbone's own, or bilinear).
        val_fraction: Validation part: a fraction, a number of images, or none (0) where nothing is
            measured.
        test_fraction: Test part, if the data has none: a fraction, a number of images, or none (0),
            which leaves all other images for training.
        split_seed: Seed that decides which images go into which split.
        groups: Images that belong together and count as one: '{group}_*.jpg', a regular expression,
            or exif:60s.
        folds: Folds for a figure of every image: each is answered by a model that was trained
            without it, and then one model is trained on all of them.
        fold: One of the folds alone: a run whose test part it is.
        split_rule: Where near-copies, which stay in one split, are looked for: in the photos (new
            runs), or in the images after resizing (runs of earlier versions).
        cache_size: What is kept on disk of data in shards (.tar, .parquet), such as 20GB. Images
            are shuffled within as many shards as half of it holds, at most 8.

    Network and training:
        model: Network (`tintype list models`), or your own: my_net.py:Net.
        model_options: Options of the network.
        time: Time limit for the run, such as 90s, 5m or 1h. It ends earlier if its epochs do.
        augment: Augmentation: a preset, or names and values (`tintype list augmentations`), your
            own among them: flip,my_aug.py:noisy.
        epochs: Passes over the training images.
        steps: Steps, instead of epochs.
        batch_size: Images per step.
        sampling: shuffle takes each image once per epoch, balanced each class equally often.
        accumulate: Parts into which a batch is divided to save memory.
        parts: Parts of a batch that processes may share, a power of two. Equal parts give equal
            bits, however many processes there are.
        optimizer: Optimizer that updates the weights: sgd, adam, adamw, muon, or your own, a
            function of params and lr: my_optimizer.py:make.
        lr: Peak learning rate. auto measures it in a range test before training.
        momentum: Momentum of sgd (Nesterov) and muon.
        betas: Decay of the two running averages of adam and adamw.
        weight_decay: Weight decay on matrices and filters, not on biases and norms.
        schedule: Schedule of the learning rate.
        milestones: Where schedule: step lowers the learning rate: parts of the run ([0.5, 0.75],
            the default), or epochs, from 1 upwards ([30, 60]).
        step_factor: Factor by which schedule: step lowers the learning rate.
        warmup: Part of the run in which the learning rate rises from zero.
        clip: Largest norm of the gradient; larger ones are scaled down.
        ema: Decay of the averaged weights; 0 switches them off.

    End and measurement:
        patience: Evaluations without improvement before the run stops.
        keep: Weights that the run ends with: the last, or the best on validation.
        monitor: Validation figure for patience and keep: best, such as loss (default: the task's
            own).
        evaluate_every: Epochs between two evaluations on validation.
        clean_sample: Training images that each evaluation also measures without augmentation.
        seed: Seed for the weights, the order of the images, augmentation and dropout.
        rules: Rules of the version that the run was begun with. From 2 on, what chooses the weights
            does not calibrate the confidence; with 1, all images do both. From 3 on, precision:
            auto takes bf16 only where the processor is faster at it, and a discriminator sees all
            pieces of a batch (accumulate), not the last one alone. With 4 (new runs), weights and
            moments below 1e-30 become zero, since processors are slow at tiny numbers.
        measure: Split that the finished model is measured on. With val, the test images stay
            unused; with none, the run has no figures and no report.
        search: What tuning may choose: {lr: {low: 0.001, high: 0.1, log: true}, batch_size: [64,
            128]}.
        track: Trackers that the run is also logged to (`tintype list tracking`), your own among
            them: my_tracker.py:Tracker.

    Machine:
        device: Device to compute on: auto, cpu, cuda, cuda:1 or mps.
        precision: Precision of the network's arithmetic.
        threads: CPU threads. auto takes as many as PyTorch does (1 in a study), and records the
            number.
        exact: Whether a resumed run ends with the same bits as one never stopped, where the device
            can. false allows faster kernels.
        compile: Whether the network is compiled by torch.compile.
        channels_last: Whether images and filters are stored with the channels last.
        hold_memory: Whether the process keeps freed memory (glibc).

    Only of tasks classify and regress:
        metrics: Figures of your own on validation and test: functions of answers and targets, such
            as my_metrics.py:kappa.
        normalise: Pixels as they are (none), divided by 255 (scale), or also centred (mean-std)
            (default: the backbone's own, or mean-std).
        tune: Part of a backbone that is trained: head, last:N (stages), all, or auto (by the number
            of images and the time).
        solver: With tune: head, whether the head is trained in steps, or linear heads are fitted
            exactly and cross-validation chooses one.
        head: Widths of the hidden layers of a new head; none gives a linear head.
        views: Augmented copies of each image, beside the image itself, with tune: head.
        layer_decay: Factor on the learning rate from each stage of a backbone to the one before.
        unfreeze: Part of the run in which the stages thaw one by one, the last stage first.
        freeze_norm: Whether batch norm in a pretrained backbone keeps its statistics.

    Only of tasks classify, regress and upscale:
        weights: Weights to start from: default (downloaded once), a file, an earlier run, or none
            (from scratch).

    Only of tasks classify, generate and regress:
        channels: Channels: 1 for grey, 3 for colour (default: as the images are).

    Only of tasks classify, generate, regress and upscale:
        loss: (classify) Loss: cross-entropy, or one of your own, such as my_loss.py:focal.
            (generate) Adversarial loss: bce, minimax, hinge, wgan-gp or relativistic; flow for flow
            matching (default: the first that the network can take). (regress) Loss: huber (smooth
            L1), mse (squared error), mae (absolute error), or one of your own, such as
            my_loss.py:pinball. (upscale) Loss: mse, l1, charbonnier, ssim or perceptual, or several
            with weights: {mse: 1, perceptual: 0.01}. adversarial needs another one beside it.

    Only of task classify:
        label_smoothing: Part of the target that is spread over all classes.
        one_hot: Whether targets are one-hot vectors; the result is the same as with integers.
        class_weights: Weight of each class in the loss: balanced, or a list.
        resolutions: Side of the images in pixels, from a part of the run on: [[0, 20], [0.5, 32]].
        hardest: Part of each batch that is trained on: the images with the largest loss.
        tta: Views of an image that are averaged when predicting.
        interpolate: Whether validation chooses how much of the fine-tuning to keep, on the line
            from the head on the frozen network to the fine-tuned network.
        flips: auto leaves out flips that would change the class of a photo. This is decided before
            training, and recorded.

    Only of tasks generate and upscale:
        discriminator_lr: Factor on the learning rate of the discriminator.

    Only of task generate:
        discriminator_steps: Steps of the discriminator in a row.
        generator_steps: Steps of the generator in a row.
        r1: Weight of the gradient penalty on real images.
        r2: Weight of the gradient penalty on generated images.
        gradient_penalty: Weight of WGAN-GP's penalty (default with wgan-gp: 10).
        penalty_every: Turns of the discriminator from one penalty to the next (lazy
            regularisation).
        diff_augment: Augmentation of real and generated images alike: colour, translation, cutout.
        ada: Target, usually 0.6, by which the probability of diff_augment is adapted.
        features: Network whose features distances are measured on: the run folder of a classifier,
            a weight file, or efficientnet_lite0 (default: pixels).
        inception_weights: Weight file for FID by the standard protocol, or download.
        num_samples: Images that are generated to be measured.

    Only of task regress:
        columns: Columns of the CSV file that hold the numbers, such as age,height (default: value).
        pattern: Where the names of the photos hold the numbers, such as '{age}_*.jpg'.
        level: Part of new photos whose number lies in its predictive interval.
        angle: Whether the numbers are angles in the picture: flips negate them, and augmentations
            that turn it are refused.

    Only of task upscale:
        scale: Factor by which pictures are enlarged: 2, 3, 4 or 8.
        patch: Side of the training patches in pixels of the large photo, a multiple of scale.
        colour: luma enlarges the brightness by the network and the colours by bicubic; rgb shows
            the network all three channels.
        symmetries: Whether patches are mirrored and turned by quarters; flip mirrors them left to
            right only.
        colour_jitter: How far brightness and contrast are changed, or {brightness: 0.2, contrast:
            0.2, saturation: 0.2, hue: 0.05}.
        degrade: How small versions are made; photo adds blur, noise and JPEG, drawn for each patch.
        feature_network: Network of the perceptual loss (default: vgg16).
        feature_layers: Layers of feature_network that the perceptual loss compares.
        adversarial_from: Part of the run that is trained without the adversarial loss, before it.
        lpips: Network that LPIPS is measured on: alexnet, vgg16, squeezenet1_1, or a weight file
            (default: LPIPS is not measured).

    Other names:
        task_options: Options of the task: of one of your own, or as an older file has them.
        batch: Another name for batch_size.
        imgsz: Another name for image_size.
        learning_rate: Another name for lr.
        img_size: Another name for image_size.
        wd: Another name for weight_decay.
    """

    task: str | Callable[..., Any]
    data: str | PathLike[str] | Any
    data_root: str | PathLike[str] | None
    image_size: int | tuple[int, int] | None
    resize: Literal["crop", "squash", "pad"]
    crop_fraction: float | None
    interpolation: Literal["bilinear", "bicubic"] | None
    val_fraction: float
    test_fraction: float | Literal["none"]
    split_seed: int
    groups: str | Any | None
    folds: int | None
    fold: int | None
    split_rule: Literal["from-photos", "at-image-size"]
    cache_size: str
    model: str | Callable[..., Any]
    model_options: dict[str, Any]
    time: str | None
    augment: str | dict[str, Any] | dict[Any, Any] | Callable[..., Any] | Sequence[Any]
    epochs: float | None
    steps: int | None
    batch_size: int
    sampling: Literal["shuffle", "balanced"]
    accumulate: int
    parts: int
    optimizer: str | Callable[..., Any]
    lr: float | Literal["auto"]
    momentum: float
    betas: tuple[float, float]
    weight_decay: float
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear"]
    milestones: list[float]
    step_factor: float
    warmup: float
    clip: float | None
    ema: float
    patience: int | None
    keep: Literal["last", "best"]
    monitor: str | None
    evaluate_every: float
    clean_sample: int
    seed: int
    rules: Literal[1, 2, 3, 4]
    measure: Literal["test", "val", "none"]
    search: dict[str, Any]
    track: list[str] | str | Callable[..., Any] | Sequence[str | Callable[..., Any]]
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int | Literal["auto"]
    exact: bool
    compile: Literal["auto", "on", "off"] | bool
    channels_last: bool
    hold_memory: bool
    metrics: (
        list[str]
        | str
        | Callable[..., Any]
        | Sequence[str | Callable[..., Any]]
        | dict[str, Callable[..., Any]]
    )
    normalise: Literal["none", "scale", "mean-std"] | None
    tune: str
    solver: Literal["steps", "exact"]
    head: list[int]
    views: int
    layer_decay: float
    unfreeze: float
    freeze_norm: bool
    weights: str | PathLike[str] | None
    channels: Literal[1, 3] | None
    loss: str | Callable[..., Any] | dict[str, float] | None
    label_smoothing: float
    one_hot: bool
    class_weights: Literal["balanced"] | list[float] | None
    resolutions: list[tuple[float, int]]
    hardest: float
    tta: Literal["none", "flip", "flip-shift"]
    interpolate: bool
    flips: Literal["as-stated", "auto"]
    discriminator_lr: float
    discriminator_steps: int
    generator_steps: int
    r1: float
    r2: float
    gradient_penalty: float
    penalty_every: int
    diff_augment: str | list[str]
    ada: float | None
    features: str | PathLike[str] | None
    inception_weights: str | PathLike[str] | None
    num_samples: int
    columns: list[str] | str | dict[str, str] | None
    pattern: str | None
    level: float
    angle: bool
    scale: Literal[2, 3, 4, 8]
    patch: int
    colour: Literal["luma", "rgb"]
    symmetries: bool | Literal["flip"]
    colour_jitter: float | dict[str, float]
    degrade: Literal["bicubic", "photo"]
    feature_network: str | None
    feature_layers: list[str] | None
    adversarial_from: float
    lpips: str | PathLike[str] | None
    task_options: dict[str, Any]
    batch: int
    imgsz: int | tuple[int, int] | None
    learning_rate: float | Literal["auto"]
    img_size: int | tuple[int, int] | None
    wd: float
