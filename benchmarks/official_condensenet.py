"""Run the official CondenseNet's own training script on a CPU, with CIFAR-10 read from folders of pictures.

    python benchmarks/official_condensenet.py CHECKOUT PICTURES RECORD [--epochs 20] [--seed 0]

CHECKOUT is https://github.com/ShichenLiu/CondenseNet; PICTURES holds train/CLASS/*.jpg and test/CLASS/*.jpg. Needs only
PyTorch and torchvision, in an environment of its own if need be. The script's arguments are those of its `script.sh`
with the depth of CondenseNet-50. Its source is not changed; around it, four things are:

  - torchvision's CIFAR10 gets its arrays from the folders instead of from the archive;
  - `.cuda()` leaves tensors and modules on the CPU, modules in channels-last memory, where its steps take half as long;
  - its `accuracy` makes a view of transposed memory, which PyTorch now refuses: ours counts the same;
  - its functions `train`, `validate` and `convert_model` are wrapped to write RECORD, a JSON line per epoch and one for
    the converted network, and, beside it, the masks of all learned group convolutions, RECORD's name with .npz.

Checkpoints go to RECORD's directory, and a repeated command resumes from the last, with the script's own --resume.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets  # pyright: ignore[reportMissingImports]


class FolderCifar(datasets.CIFAR10):
    """CIFAR-10 of torchvision, transforms and all, with the pixels and labels of a folder of pictures."""

    pictures: Path

    def __init__(self, root: str, train: bool = True, transform: Any = None, download: bool = False):
        datasets.VisionDataset.__init__(self, root, transform=transform)
        folder = datasets.ImageFolder(str(self.pictures / ("train" if train else "test")))
        self.train = train
        self.data = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in folder.samples])
        self.targets = folder.targets


def load_script(checkout: Path, directory: Path, epochs: int, seed: int) -> Any:
    """Import the official `main.py` as a module; it parses the command line on import."""
    network = "--stages 8-8-8 --growth 8-16-32 --bottleneck 4 --group-1x1 4 --group-3x3 4 --condense-factor 4"
    recipe = f"--model condensenet -b 64 -j 2 cifar10 --epochs {epochs} --lr-type cosine {network} --gpu 0 --resume"
    sys.argv = ["main.py", *recipe.split(), "--manual-seed", str(seed), "--savedir", str(directory)]
    sys.path.insert(0, str(checkout))
    import main  # pyright: ignore[reportMissingImports]

    return main


def record_into(file: Path, main: Any) -> None:
    """Wrap the script's functions, so that each epoch and the result become lines of `file`."""
    train, validate, convert = main.train, main.validate, main.convert_model
    trained: dict[str, Any] = {}  # the record of an epoch, until it is complete

    def write(record: dict[str, Any]) -> None:
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")

    def recorded_train(loader: Any, model: Any, criterion: Any, optimizer: Any, epoch: int) -> Any:
        start = time.perf_counter()
        result = error, _, loss, _ = train(loader, model, criterion, optimizer, epoch)
        trained.update(kind="epoch", epoch=epoch + 1, loss=loss, accuracy=1 - error / 100)
        trained.update(seconds=time.perf_counter() - start)
        return result

    def recorded_validate(loader: Any, model: Any, criterion: Any) -> Any:
        losses = []

        def kept_criterion(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            loss = criterion(output, target)
            losses.append((loss.item(), len(target)))
            return loss

        start = time.perf_counter()
        with torch.no_grad():  # what the script's `volatile=True` asked for, which PyTorch has dropped
            result = error, _ = validate(loader, model, kept_criterion)
        record = dict(trained) or {"kind": "converted"}
        record["held_out_loss"] = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
        write(record | {"held_out_accuracy": 1 - error / 100, "held_out_seconds": time.perf_counter() - start})
        trained.clear()
        return result

    def recorded_convert(model: Any, arguments: Any) -> None:
        masks = {name: buffer for name, buffer in model.named_buffers() if name.endswith("_mask")}
        np.savez_compressed(file.with_suffix(".npz"), **{name: mask.numpy() > 0 for name, mask in masks.items()})
        convert(model, arguments)

    main.train, main.validate, main.convert_model = recorded_train, recorded_validate, recorded_convert


def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[torch.Tensor]:
    """Return the percentage of images whose class is among the k highest logits, for every k of `topk`."""
    ranked = output.topk(max(topk), dim=1).indices == target[:, None]
    return [ranked[:, :k].any(1).float().mean() * 100 for k in topk]


def stay_on_the_cpu() -> None:
    """Make `.cuda()` of tensors do nothing, and that of modules choose the faster layout."""
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self.to(  # pyright: ignore[reportCallIssue]
        memory_format=torch.channels_last
    )


def run(options: argparse.Namespace) -> None:
    """Train, convert and evaluate."""
    stay_on_the_cpu()
    FolderCifar.pictures = options.pictures
    datasets.CIFAR10 = FolderCifar
    options.record.parent.mkdir(parents=True, exist_ok=True)
    main = load_script(options.checkout, options.record.parent, options.epochs, options.seed)
    main.accuracy = accuracy
    record_into(options.record, main)
    main.main()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=lambda text: Path(text).resolve())
    parser.add_argument("pictures", type=lambda text: Path(text).resolve())
    parser.add_argument("record", type=lambda text: Path(text).resolve())
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    run(parser.parse_args())
