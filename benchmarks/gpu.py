"""All measurements on a GPU, the most important first, within a few minutes.

    python benchmarks/gpu.py --minutes 8 --data cifar10-jpeg.tar.gz --out results/gpu
    python benchmarks/gpu.py --parts imagenet --out results/gpu     # one part; this one needs no --data
    python benchmarks/gpu.py --dry_run                      # the same code on a CPU, tiny, in about a minute

Parts, in this order: ``checks`` (every activation, attack, objective, metric and network against the CPU), ``kernels``
(KAF and k-WTA against SiLU), ``training`` (images per second against the public loop), ``imagenet`` (images per second
and peak memory of a ResNet-50 in fast adversarial training), ``runs`` (trainings to the end, with their tests),
``attacks`` (PGD-50-10 and AutoAttack on the trained networks, against torchattacks if installed).
Each part rewrites ``OUT/<part>.json`` after every figure, so that an interrupted script loses nothing.
It needs torch, torchvision, pytorch-lightning, torchmetrics, scipy, scikit-learn and matplotlib, nothing else.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_imagenet
import public_loop
import torch
from kaf import Kaf
from timing import interleaved, machine, peak_bytes, seconds
from torch import Tensor, nn

from datamodules import CropFlip, Digits, ImageDataModule, ImageFolder
from kafnets import ops
from kafnets.activations import KAF, Activation, ReLU, Ridge, SiLU
from kafnets.attacks import PGD, AutoAttack
from kafnets.backbones import Backbone, KafVGG, PreActResNet18
from kafnets.files import written_whole
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.metrics import wilson_interval
from kafnets.objectives import Adversarial, Batch
from kafnets.threat import ThreatModel
from lightning_modules.provenance import code_version

Build = Callable[[Callable[[int], Activation]], Backbone]


class Report:
    """The JSON of one part, written atomically after every figure.

    Args:
        session: the state that all parts share.
        part: its name.
    """

    def __init__(self, session: "Session", part: str) -> None:
        self.path = session.out / f"{part}.json"
        self.content: dict[str, Any] = {"part": part, "machine": session.machine, "code": session.code}

    def add(self, name: str, value: Any) -> None:
        """Keep a figure, print it and write the file."""
        self.content[name] = value
        print(f"{self.path.stem}: {name}: {json.dumps(value)}", flush=True)
        with written_whole(self.path) as part:
            part.write_text(json.dumps(self.content, indent=2) + "\n")


class Session:
    """The state that the parts share: device, data, time left and output folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.dry = options.dry_run
        self.device = "cpu" if self.dry else "cuda"
        self.end = time.monotonic() + 60 * options.minutes
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.machine, self.code = machine(self.device), code_version()
        self.data_path = options.data
        self._data: ImageDataModule | None = None

    def left(self) -> float:
        """The time left in seconds."""
        return self.end - time.monotonic()

    def data(self) -> ImageDataModule:
        """The images, decoded once: those of ``--data``, and digits in a dry run."""
        if self._data is None:
            if self.data_path is None:
                self._data = Digits(batch_size=128)
            else:
                cache = self.out / ".cache"
                self._data = ImageFolder(self.data_path, batch_size=128, augment=CropFlip(), cache=cache)
            self._data.prepare_data()
            self._data.setup()
        return self._data

    def nets(self) -> dict[str, tuple[Build, Callable[[int], Activation]]]:
        """The networks that training is measured on."""
        data = self.data()
        size = {"image_size": data.image_size, "in_channels": data.in_channels, "num_classes": data.num_classes}
        small = {"width": 8, "hidden": 16} if self.dry else {}

        def vgg(activation: Callable[[int], Activation]) -> Backbone:
            return KafVGG(activation=activation, dropout=(0.1, 0.1, 0.1, 0.2), bn_momentum=0.1, **size, **small)

        def resnet(activation: Callable[[int], Activation]) -> Backbone:
            return PreActResNet18(activation=activation, **size)

        def elu_kaf(channels: int) -> Activation:
            return KAF(channels, init=Ridge(nn.functional.elu))

        nets: dict[str, tuple[Build, Callable[[int], Activation]]] = {
            "KafVGG, ReLU": (vgg, ReLU),
            "KafVGG, SiLU": (vgg, SiLU),
            "KafVGG, KAF": (vgg, elu_kaf),
        }
        if not self.dry:
            nets |= {"PreActResNet18, ReLU": (resnet, ReLU), "PreActResNet18, KAF": (resnet, elu_kaf)}
        return nets


def checks(session: Session, report: Report) -> None:
    """Run every check, and report which ones fail."""
    failed: dict[str, str] = {}
    passed = 0
    started, device = time.monotonic(), torch.device(session.device)
    for name, check in gpu_checks.checks():
        if session.dry and name in ("net PreActResNet18", "torch.compile", "autocast torch.float16"):
            continue
        try:
            check(device)
            passed += 1
        except Exception as error:  # any failure of a device is a result
            failed[name] = f"{type(error).__name__}: {error}"[:2000]
            print(traceback.format_exc(limit=-3), flush=True)
    report.add("passed", passed)
    report.add("failed", failed)
    report.add("seconds", round(time.monotonic() - started, 1))


def kernels(session: Session, report: Report) -> None:
    """Milliseconds and memory of KAF, k-WTA, SiLU and ReLU, forward and backward."""
    shape = (8, 8, 8, 8) if session.dry else (128, 64, 32, 32)
    engine = "native" if session.dry else "triton"
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        x = torch.randn(shape, device=session.device).to(dtype).requires_grad_()
        v = torch.randn(shape, device=session.device).to(dtype)
        kaf, free = (Kaf(20, shape[1], session.device, free=free) for free in (False, True))
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "SiLU": nn.functional.silu,
            "ReLU": nn.functional.relu,
            f"KAF, {engine}": kaf.by(engine),
            "KAF, eager": kaf.by("eager"),
            f"KAF, free, {engine}": free.by(engine),
            "k-WTA": lambda x: ops.kwta(x, 0.2),
        }

        def step(function: Callable[[Tensor], Tensor], x: Tensor = x, v: Tensor = v) -> None:
            function(x).backward(v)
            x.grad = None

        runs = {name: (lambda f=function: step(f)) for name, function in functions.items()}
        taken = interleaved(runs, 3 if session.dry else 20, session.device)
        values = {}
        for name, run in runs.items():
            values[name] = {
                "milliseconds": round(1e3 * taken[name], 4),
                "times_silu": round(taken[name] / taken["SiLU"], 2),
            }
            if not session.dry:
                values[name]["peak_tensors"] = round(peak_bytes(run, session.device) / x.nbytes, 2)
        report.add(f"{str(dtype).removeprefix('torch.')} {shape}", values)


def our_steps(session: Session, net: Backbone, optimizer: torch.optim.Optimizer, batch_size: int) -> Iterator[int]:
    """Fast adversarial training with this project, on images that stay on the device."""
    train, augment = session.data().train_set, CropFlip(padding=1 if session.dry else 4)
    images, labels = train.images.to(session.device), train.labels.to(session.device)
    objective, generator, threat = Adversarial(), torch.Generator().manual_seed(0), ThreatModel()
    net.train()
    while True:
        order = torch.randperm(len(images), generator=generator).to(session.device)
        for index in order.split(batch_size):
            if len(index) < batch_size:
                break
            x = augment(images[index].float() / 255, generator)
            optimizer.zero_grad()
            with torch.autocast(session.device, torch.bfloat16, enabled=not session.dry):
                terms = objective(net, Batch(x, labels[index], image_keys(index, 0), 0.0, threat))
            terms.loss.backward()
            optimizer.step()
            yield len(x)


def training(session: Session, report: Report) -> None:
    """Images per second of the training step here, and of the public loop, in turn on the same network."""
    batch_size, count = (32, 3) if session.dry else (128, 40)
    train = session.data().train_set

    def fresh(build: Build, activation: Callable[[int], Activation]) -> tuple[Backbone, torch.optim.Optimizer]:
        net = build(activation).to(session.device)
        return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def rate(steps: Iterator[int]) -> float:
        warm = list(islice(steps, 2 if session.dry else 10))
        images: list[int] = []
        taken = seconds(lambda: images.extend(islice(steps, count)), session.device)
        return sum(images) / taken if warm else 0.0

    for name, (build, activation) in session.nets().items():
        if session.left() < 60:
            report.add("stopped", f"before {name}: {session.left():.0f} s left")
            return
        ours, public = [], []
        for _ in range(1 if session.dry else 3):
            ours.append(rate(our_steps(session, *fresh(build, activation), batch_size)))
            loop = public_loop.steps(*fresh(build, activation), train.images, train.labels, batch_size, session.device)
            public.append(rate(loop))
        values = {"ours": [round(v) for v in ours], "public_loop": [round(v) for v in public]}
        values["ratio"] = [round(a / b, 2) for a, b in zip(ours, public, strict=True)]
        report.add(name, values)


def imagenet(session: Session, report: Report) -> None:
    """Training steps of a ResNet-50 on random photographs."""
    for name, values in gpu_imagenet.figures(session.device, dry=session.dry):
        report.add(name, values)
        if session.left() < 30:
            report.add("stopped", f"{session.left():.0f} s left")
            return


def runs(session: Session, report: Report) -> dict[str, Backbone]:
    """Train networks to the end as ``fit`` does, test them, and return them."""
    from pytorch_lightning import Trainer

    from kafnets.schedules import Triangular
    from lightning_modules import AdversarialTraining

    trained: dict[str, Backbone] = {}
    data, nets = session.data(), session.nets()
    plan = [("KafVGG, ReLU", 5), ("KafVGG, KAF", 5), ("PreActResNet18, ReLU", 15), ("PreActResNet18, KAF", 15)]
    for name, epochs in plan:
        if name not in nets or session.left() < 90 + 60 * (epochs > 5):
            report.add(f"{name}: not run", f"{session.left():.0f} s left")
            continue
        build, activation = nets[name]
        torch.manual_seed(0)
        module = AdversarialTraining(
            net=build(activation),
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
            schedule=Triangular(),
            channels_last=True,
            val_attack=PGD(steps=2 if session.dry else 10),
            val_images=20 if session.dry else 500,
            test_attack=PGD(steps=3 if session.dry else 50),
            test_images=20 if session.dry else 1000,
        )
        trainer = Trainer(
            max_epochs=1 if session.dry else epochs,
            accelerator="cpu" if session.dry else "gpu",
            devices=1,
            precision="32-true" if session.dry else "bf16-mixed",
            benchmark=not session.dry,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_train_batches=5 if session.dry else 1.0,
        )
        started = time.monotonic()
        trainer.fit(module, data)
        taken = time.monotonic() - started
        trainer.test(module, data, verbose=False)
        results = {key: round(value, 4) for key, value in module.test_results.items()}
        objective = module.objective.label
        report.add(name, results | {"epochs": trainer.current_epoch, "fit_seconds": round(taken, 1), "by": objective})
        trained[name] = module.net.to(session.device).eval()
    return trained


def attacks(session: Session, report: Report, trained: dict[str, Backbone]) -> None:
    """PGD-50-10 and AutoAttack on the trained networks, and torchattacks if installed: seconds, robust images."""
    test = session.data().test_set
    count = 8 if session.dry else min(1000, len(test))
    x, y = (test.images[:count].float() / 255).to(session.device), test.labels[:count].to(session.device)
    steps, restarts, queries = (3, 2, 5) if session.dry else (50, 10, 5000)
    keys = image_keys(torch.arange(count, device=session.device), 0)
    for name, net in trained.items():
        runs: dict[str, Callable[[], Tensor]] = {}
        pgd, auto = PGD(steps=steps, restarts=restarts), AutoAttack(batch_size=None)
        if session.dry:
            for attack in auto.attacks.values():
                for setting, value in (("steps", 2), ("queries", queries), ("targets", 2), ("classes", 2)):
                    if hasattr(attack, setting):
                        setattr(attack, setting, value)
        runs["PGD-50-10"] = lambda net=net, pgd=pgd: pgd(net, x, y, keys=keys)
        if find_spec("torchattacks"):
            runs["PGD-50-10, torchattacks"] = lambda net=net: torchattacks_pgd(net, x, y, steps, restarts)
        runs["AutoAttack"] = lambda net=net, auto=auto: auto.evaluate(net, x, y, keys=keys).images
        for title, run in runs.items():
            if session.left() < 20 and not session.dry:
                report.add("stopped", f"before {title} on {name}")
                return
            found: list[Tensor] = []
            taken = seconds(lambda run=run, found=found: found.append(run()), session.device)
            with torch.no_grad():
                robust = int((is_correct(net(x), y) & is_correct(net(found[0]), y)).sum())
            low, high = wilson_interval(robust, count)
            interval = [round(low, 4), round(high, 4)]
            values = {"seconds": round(taken, 2), "robust": robust, "images": count, "wilson95": interval}
            report.add(f"{title} on {name}", values)


def torchattacks_pgd(net: nn.Module, x: Tensor, y: Tensor, steps: int, restarts: int) -> Tensor:
    """Restarts as in its documentation."""
    import torchattacks

    starts = [torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=steps) for _ in range(restarts)]
    return torchattacks.MultiAttack(starts)(x, y)


PARTS = ["checks", "kernels", "training", "imagenet", "runs", "attacks"]
WITHOUT_DATA = {"checks", "kernels", "imagenet"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="no part starts after this time")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as image files; training, runs and attacks need it")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="run only these")
    parser.add_argument("--dry_run", action="store_true", help="tiny, on a CPU, with digits for data")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry_run runs the same code on a CPU")
    if not options.dry_run and options.data is None and {*options.parts} - WITHOUT_DATA:
        parser.error("--data is needed to train on a GPU")
    if options.dry_run:
        torch.set_num_threads(1)
    gpu_checks.exact_float32()
    torch.manual_seed(0)
    session = Session(options)
    print(f"{session.machine}\ncode {session.code}", flush=True)
    trained: dict[str, Backbone] = {}
    parts: dict[str, Callable[[Session, Report], Any]] = {
        "checks": checks,
        "kernels": kernels,
        "training": training,
        "imagenet": imagenet,
        "runs": lambda session, report: trained.update(runs(session, report)),
        "attacks": lambda session, report: attacks(session, report, trained),
    }
    for name in options.parts:
        part, report = parts[name], Report(session, name)
        if session.left() < 15:
            report.add("not run", f"{session.left():.0f} s left")
            continue
        try:
            part(session, report)
        except Exception as error:  # the other parts still run
            report.add("error", f"{type(error).__name__}: {error}"[:2000])
            traceback.print_exc()
    print(f"{session.left():.0f} s left; results in {session.out}", flush=True)


if __name__ == "__main__":
    main()
