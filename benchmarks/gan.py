"""Steps per second of DCGAN training: the engine beside the loop of the PyTorch DCGAN tutorial, in turn in one run.

    python benchmarks/gan.py                     # made images, 32x32x3, network of R11, batch 128
    python benchmarks/gan.py --threads 1 --rounds 5

Both train the same networks (370,624 and 167,808 parameters) by Adam at 0.0002 on the same images.
The tutorial's loop is that of pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html: per-image
transforms in a DataLoader with two workers, float32, default memory format, sigmoid and BCELoss,
one generated batch for both networks.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tintype.data.pixels import ResidentPixels
from tintype.data.source import DataSpec, DataSplits, StoredSource
from tintype.data.targets import Classes
from tintype.hardware.device import choose_compile, choose_device, choose_precision, hold_memory
from tintype.models import build_model
from tintype.progress import Watcher
from tintype.recipe import Recipe
from tintype.runs.folder import RunFolder
from tintype.tasks.generate.task import make
from tintype.training.engine import Engine
from tintype.training.run import on_device

BATCH = 128


def made_images(count: int = 8192) -> DataSplits:
    """Return smooth random pictures; what is on them does not matter for the speed."""
    draw = np.random.default_rng(0)
    small = [
        Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(count)
    ]
    pixels = torch.from_numpy(
        np.stack([np.asarray(i.resize((32, 32), Image.Resampling.BICUBIC)) for i in small])
    )
    spec = DataSpec("made", 3, 32, 32, Classes(("thing",)), (0.5,) * 3, (0.5,) * 3, "")
    names = [f"{i}" for i in range(count)]
    store = ResidentPixels(pixels)
    train = StoredSource(spec, store, torch.zeros(count, dtype=torch.int64), names)
    few = train.subset(torch.arange(16))
    return DataSplits(spec, train, few, few, (), ())


class Clock(Watcher):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        self.times.append(time.perf_counter())


def engine(splits: DataSplits, steps: int, device: torch.device) -> float:
    """Return the engine's steps per second."""
    recipe = Recipe(
        task="generate", model="dcgan", steps=steps, batch_size=BATCH, optimizer="adam", lr=2e-4, betas=(0.5, 0.999),
        schedule="constant", evaluate_every=1e6,
    )  # fmt: skip
    dtype, _ = choose_precision("auto", device)
    compile, _ = choose_compile("auto", device, steps)
    splits = splits if device.type == "cpu" else on_device(splits, device)[0]
    task = make(
        splits,
        device=device,
        dtype=dtype,
        model="dcgan",
        model_options={},
        seed=0,
        augment="none",
        num_samples=16,
    )
    for network in task.networks.values():
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Engine(
            task, recipe, RunFolder(folder), clock, device=device, compile=compile, checkpoint_seconds=1e9
        ).fit(splits.train, splits.val)  # fmt: skip
    times = clock.times[warm_up(steps) :]
    return (len(times) - 2) / (times[-2] - times[0])  # the last step is followed by an evaluation


class Pictures(Dataset[Any]):
    """Pictures one by one, as ImageFolder gives them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels.numpy()
        self.transform = transforms.Compose(
            [
                transforms.Resize(32),
                transforms.CenterCrop(32),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), 0


def tutorial(splits: DataSplits, steps: int, device: torch.device) -> float:
    """Return the steps per second of the tutorial's loop."""
    images = splits.train.take(torch.arange(len(splits.train))).images
    loader = DataLoader(
        Pictures(images.permute(0, 2, 3, 1)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
    )
    networks: Any = build_model("dcgan", splits.spec, {}, seed=0).to(device)
    net_g, net_d = networks["generator"], networks["discriminator"]
    criterion = nn.BCELoss()
    optimizer_d = torch.optim.Adam(net_d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(net_g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    times: list[float] = []
    while True:
        for data in loader:
            net_d.zero_grad()
            real = data[0].to(device)
            label = torch.full((real.size(0),), 1.0, device=device)
            err_real = criterion(net_d(real).sigmoid().view(-1), label)
            err_real.backward()
            fake = net_g(torch.randn(real.size(0), 100, device=device))
            label.fill_(0.0)
            err_fake = criterion(net_d(fake.detach()).sigmoid().view(-1), label)
            err_fake.backward()
            optimizer_d.step()
            net_g.zero_grad()
            label.fill_(1.0)
            err_g = criterion(net_d(fake).sigmoid().view(-1), label)
            err_g.backward()
            optimizer_g.step()
            # the tutorial keeps both losses of each step
            _ = (err_real + err_fake).item(), err_g.item()
            times.append(time.perf_counter())
            if len(times) == steps:
                kept = times[warm_up(steps) :]
                return (len(kept) - 1) / (kept[-1] - kept[0])


def warm_up(steps: int) -> int:
    """Return how many first steps are not counted."""
    return max(3, steps // 10)


def measured(which: str, options: argparse.Namespace) -> float:
    """Return the steps per second of one of the two, in a process of its own: held memory cannot be
    given back.
    """
    command = [
        sys.executable,
        __file__,
        "--only",
        which,
        "--steps",
        str(options.steps),
        "--device",
        options.device,
    ]
    command += ["--threads", str(options.threads)] if options.threads else []
    return float(
        subprocess.run(
            command, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout.split()[-1]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=("engine", "tutorial"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, why = choose_device(options.device)
    if options.only == "tutorial":
        print(tutorial(made_images(), options.steps, device))
        return
    if options.only == "engine":
        hold_memory()
        print(engine(made_images(), options.steps, device))
        return
    print(
        f"{why}\n{choose_precision('auto', device)[1]}\n{torch.get_num_threads()} threads, batch {BATCH}"
    )
    ratios, fast = [], []
    for _ in range(options.rounds):
        slow = measured("tutorial", options)
        fast.append(measured("engine", options))
        ratios.append(fast[-1] / slow)
        print(
            f"tutorial {slow:7.2f} steps/s   engine {fast[-1]:7.2f} steps/s   ratio {ratios[-1]:.2f}",
            flush=True,
        )
    minutes = 50_000 / statistics.median(fast) / 60
    print(
        f"ratio: median {statistics.median(ratios):.2f} of {len(ratios)} rounds; 50,000 steps take {minutes:.1f} min"
    )


if __name__ == "__main__":
    main()
