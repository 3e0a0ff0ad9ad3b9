"""Correctness on a GPU: each check runs a part of the library once on a device and compares it with the CPU.

A check is a function of a device that raises an error if it fails. ``benchmarks/gpu.py`` runs all of them and records
the failures; ``tests/test_gpu.py`` runs each as a test. They need only PyTorch, torchvision, torchmetrics and
Lightning.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from datamodules import CropFlip, ImageTensors
from datamodules.seeding import keyed_generator
from kafnets import activations, attacks, functional
from kafnets.activations import KAF, KWTA, Activation, MultiKAF, ReLU, SiLU
from kafnets.attacks import Attack
from kafnets.backbones import Backbone, KafResNet, KafVGG, LightNet, PreActResNet18
from kafnets.keyed_random import image_keys, normal, uniform
from kafnets.metrics import RobustAccuracy
from kafnets.objectives import AWP, ELLE, MART, NFGSM, TRADES, Adversarial, Batch, Clean, Free, GradAlign, Objective
from kafnets.threat import L1, L2, Linf, ThreatModel

Check = Callable[[torch.device], None]
CPU = torch.device("cpu")
NOT_PLAIN = {"Activation", "FromModule", "KAFInit", "Kernel", "Identity"}


def exact_float32() -> None:
    """Switch TF32 off, which keeps only ten bits of the mantissa of float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def every_activation() -> dict[str, Callable[[int], Activation]]:
    found = {name: getattr(activations, name) for name in activations.__all__}
    plain = {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Activation)}
    more = {"KAF, free": functools.partial(KAF, free=True), "KAF, shared": functools.partial(KAF, groups=1)}
    kernels = {f"KAF, {name}": functools.partial(KAF, kernel=getattr(activations, name)()) for name in KERNELS}
    return {name: kind for name, kind in plain.items() if name not in NOT_PLAIN} | more | kernels


KERNELS = ("Laplacian", "Matern32", "Matern52", "Periodic", "RationalQuadratic", "TriangularKernel")


def on(device: torch.device, layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, input gradient and parameter gradients, computed on a device and copied to the CPU."""
    layer, x = copy.deepcopy(layer).to(device), x.detach().to(device).requires_grad_(True)
    y = layer(x)
    weight = torch.linspace(-1, 1, y.numel(), device=device, dtype=torch.float64).to(y.dtype).reshape(y.shape)
    leaves = [x, *layer.parameters()]
    return [t.detach().cpu() for t in (y, *torch.autograd.grad((y * weight).sum(), leaves))]


def check_activation(build: Callable[[int], Activation], device: torch.device) -> None:
    torch.manual_seed(0)
    layer, x = build(8), 2 * torch.randn(4, 8, 9, 7)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = x.contiguous(memory_format=layout)
        for found, expected in zip(on(device, layer, images), on(CPU, layer, images), strict=True):
            scale = expected.abs().max().clamp_min(1e-6)
            assert_close(found / scale, expected / scale, rtol=0, atol=2e-4)


def check_kaf_everywhere(device: torch.device) -> None:
    """A KAF against the plain formula in float64, at huge, tiny, infinite and undefined inputs too."""
    torch.manual_seed(0)
    special = [0.0, -0.0, 1e-40, 1e-20, 3.0, -3.0, 10.0, 1e4, 1e20, -1e38, float("inf"), -float("inf")]
    x = torch.cat([torch.linspace(-8, 8, 988), torch.tensor(special)]).reshape(10, 1, 100).expand(-1, 3, -1)
    for layer in (
        KAF(3),
        KAF(3, free=True),
        KAF(3, num_dict=33),
        KAF(3, init=activations.Ridge(torch.nn.functional.silu)),
    ):
        double = copy.deepcopy(layer).double()
        expected = functional.kaf(x.double(), double.alpha, double.dictionary, double.bandwidth)
        scale = expected.abs().max()
        for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
            with torch.no_grad():
                found = layer.to(device)(x.to(device, dtype)).cpu()
            rounded = functional.kaf(x.to(dtype).double(), double.alpha, double.dictionary, double.bandwidth)
            assert found.dtype == dtype
            assert_close(found.double() / scale, rounded / scale, rtol=0, atol=tolerance)
        layer.to("cpu")
    nan = torch.full((2, 3, 4), float("nan"), device=device)
    assert KAF(3).to(device)(nan).isnan().all()


def check_kaf_second_derivative(device: torch.device) -> None:
    torch.manual_seed(0)
    layer, x = KAF(4), torch.randn(6, 4, 5)

    def penalty(where: torch.device) -> list[Tensor]:
        module, images = copy.deepcopy(layer).to(where), x.to(where).requires_grad_(True)
        (slope,) = torch.autograd.grad(module(images).square().sum(), images, create_graph=True)
        return [g.cpu() for g in torch.autograd.grad(slope.square().sum(), [images, *module.parameters()])]

    for found, expected in zip(penalty(device), penalty(CPU), strict=True):
        assert_close(found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=5e-4)


def check_kwta_is_exact(device: torch.device) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(16, 32, 8, 8).to(dtype)
        x[0, 0] = x[0, 1]  # equal values are kept together
        for ratio in (0.05, 0.2, 0.9):
            assert torch.equal(KWTA(32, ratio=ratio).to(device)(x.to(device)).cpu(), functional.kwta(x, ratio))


def check_noise_is_the_same(device: torch.device) -> None:
    keys = image_keys(torch.arange(50), 3)
    assert torch.equal(image_keys(torch.arange(50, device=device), 3).cpu(), keys)
    assert torch.equal(uniform(keys.to(device), (3, 8, 8)).cpu(), uniform(keys, (3, 8, 8)))
    assert_close(normal(keys.to(device), (3, 8, 8)).cpu(), normal(keys, (3, 8, 8)), rtol=0, atol=1e-5)


def small_net(activation: Callable[[int], Activation] = SiLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), activation(6), nn.Conv2d(6, 8, 3), activation(8), nn.Flatten(),
        nn.Linear(128, 6),
    ).double()  # fmt: skip


def small_batch(threat: ThreatModel) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 3, 8, 8, generator=generator).double()
    return Batch(x, torch.randint(6, (12,), generator=generator), image_keys(torch.arange(12), 0), 0.0, threat)


def to(device: torch.device, batch: Batch) -> Batch:
    return batch._replace(x=batch.x.to(device), y=batch.y.to(device), keys=batch.keys.to(device))


ATTACKS: dict[str, Callable[[], Attack]] = {
    "FGSM": attacks.FGSM,
    "PGD": functools.partial(attacks.PGD, steps=5, restarts=2),
    "PGD, L2": functools.partial(attacks.PGD, steps=5, norm=L2(), eps=0.5),
    "PGD, L1": functools.partial(attacks.PGD, steps=5, norm=L1(), eps=3),
    "PGD, EOT": functools.partial(attacks.PGD, steps=3, estimator=attacks.EOT(2)),
    "PGD, differences": functools.partial(
        attacks.PGD, steps=2, estimator=attacks.FiniteDifferences(samples={0: 20}), random_start=False
    ),
    "MIFGSM": functools.partial(attacks.MIFGSM, steps=4),
    "APGD": functools.partial(attacks.APGD, steps=10),
    "APGD, L1": functools.partial(attacks.APGD, steps=10, norm=L1(), eps=3),
    "APGDT": functools.partial(attacks.APGDT, steps=6, targets=3),
    "FAB": functools.partial(attacks.FAB, steps=8, classes=3),
    "Square": functools.partial(attacks.Square, queries=30),
    "Square, L2": functools.partial(attacks.Square, queries=20, norm=L2(), eps=0.5),
    "CW": functools.partial(attacks.CW, steps=20, search_steps=2),
    "DeepFool": functools.partial(attacks.DeepFool, steps=5, classes=3),
    "AutoAttack rand": functools.partial(attacks.AutoAttack, "rand", batch_size=None),
    "UniformNoise": functools.partial(attacks.UniformNoise, restarts=3),
    "SphereNoise": attacks.SphereNoise,
    "GaussianNoise": attacks.GaussianNoise,
}


def check_attack(build: Callable[[], Attack], device: torch.device) -> None:
    """Same result as on the CPU (in float64, so that rounding does not matter), inside the ball, network unchanged."""
    attack, net = build(), small_net().eval()
    batch = small_batch(attack.threat)
    with torch.no_grad():
        batch = batch._replace(y=net(batch.x).argmax(1))
    there, copied = to(device, batch), copy.deepcopy(net).to(device)
    state = [value.clone() for value in copied.state_dict().values()]
    found = attack(copied, there.x, there.y, keys=there.keys)
    expected = attack(net, batch.x, batch.y, keys=batch.keys)
    assert attack.norm.size(found - there.x).max().item() <= attack.eps and found.min() >= 0 and found.max() <= 1
    assert all(torch.equal(a, b) for a, b in zip(state, copied.state_dict().values(), strict=True))
    right = [copied(found).argmax(1).eq(there.y).cpu(), net(expected).argmax(1).eq(batch.y)]
    # a GPU checks only every eighth step which images are misclassified, so the images themselves may differ
    assert torch.equal(*right)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "clean": Clean,
    "fast_at": Adversarial,
    "pgd_at": lambda: Adversarial(attack=attacks.PGD(steps=3)),
    "trades": functools.partial(TRADES, steps=3),
    "grad_align": GradAlign,
    "n_fgsm": NFGSM,
    "free": Free,
    "mart": functools.partial(MART, steps=3),
    "awp": functools.partial(AWP, objective=Adversarial()),
    "elle": functools.partial(ELLE, adaptive=False),
}


def check_objective(build: Callable[[], Objective], device: torch.device) -> None:
    for activation in (ReLU, KAF, functools.partial(KAF, free=True), functools.partial(KWTA, ratio=0.3), MultiKAF):
        batch, net, gradients, losses = small_batch(ThreatModel(Linf(), 0.05)), small_net(activation).train(), [], []
        for where in (CPU, device):
            copied = copy.deepcopy(net).to(where)
            terms = build()(copied, to(where, batch))
            terms.loss.backward()
            losses.append(terms.loss.item())
            gradients.append([p.grad.cpu() for p in copied.parameters() if p.grad is not None])
        assert abs(losses[0] - losses[1]) < 1e-6 * max(1, abs(losses[0])), losses
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b, rtol=1e-4, atol=1e-7)


NETS: dict[str, Callable[[Callable[[int], Activation]], Backbone]] = {
    "KafVGG": lambda activation: KafVGG(activation=activation),
    "KafResNet20": lambda activation: KafResNet(depth=20, activation=activation),
    "LightNet": lambda activation: LightNet(activation=activation),
    "PreActResNet18": lambda activation: PreActResNet18(activation=activation),
}


def check_net(name: str, device: torch.device) -> None:
    """Logits and input gradients of a network in float32 against the CPU's."""
    exact_float32()
    for activation in (ReLU, KAF):
        torch.manual_seed(0)
        net, x = NETS[name](activation).eval(), torch.rand(4, 3, 32, 32)
        results = []
        for where in (CPU, device):
            images = x.to(where).requires_grad_(True)
            logits = net.to(where)(images)
            results.append([logits.detach().cpu(), torch.autograd.grad(logits.logsumexp(1).sum(), images)[0].cpu()])
        for found, expected in zip(results[1], results[0], strict=True):
            assert_close(found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=2e-3)


def check_nothing_waits(device: torch.device) -> None:
    """After the first, a training step queues its work on the device without waiting for it."""
    torch.manual_seed(0)
    net = KafVGG(activation=ReLU).to(device).train()
    x, y = torch.rand(8, 3, 32, 32, device=device), torch.randint(10, (8,), device=device)
    batch = Batch(x, y, image_keys(torch.arange(8, device=device), 0), 0.0, ThreatModel())
    for objective in (Adversarial(), TRADES(steps=2)):
        objective(net, batch).loss.backward()
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            objective(net, batch).loss.backward()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def check_half_precision(dtype: torch.dtype, device: torch.device) -> None:
    """A fast-AT step under autocast: finite, and most signs of the input gradient equal those of float32."""
    torch.manual_seed(0)
    net = KafVGG(activation=KAF, dropout=(0, 0, 0, 0)).to(device).train()
    x, y = torch.rand(32, 3, 32, 32, device=device), torch.randint(10, (32,), device=device)
    batch = Batch(x, y, image_keys(torch.arange(32, device=device), 0), 0.0, ThreatModel())
    attack = attacks.FGSM(random_start=False)
    plain = attack.craft(net, x, y, keys=batch.keys)
    with torch.autocast(device.type, dtype):
        half = attack.craft(net, x, y, keys=batch.keys)
        terms = Adversarial()(net, batch)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    scaler.scale(terms.loss).backward()
    assert torch.isfinite(terms.loss) and all(
        torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None
    )
    assert terms.loss.dtype == torch.float32 and half.dtype == torch.float32
    agree = ((half - x).sign() == (plain - x).sign()).float().mean().item()
    assert agree > 0.7, f"signs agree on {agree:.3f} of the pixels"


def check_compile(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    net, x = NETS[name](KAF).to(device).eval(), torch.rand(8, 3, 32, 32, device=device)
    compiled = copy.deepcopy(net)
    compiled.compile()
    assert_close(compiled(x), net(x), rtol=1e-3, atol=1e-3)


def check_metric(device: torch.device) -> None:
    torch.manual_seed(0)
    metrics = []
    for where in (CPU, device):
        metric = RobustAccuracy().to(where)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            clean, adv = torch.randn(2, 40, 10, generator=generator)
            metric.update(clean.to(where), adv.to(where), torch.arange(40, device=where) % 10)
        metrics.append({key: value.item() for key, value in metric.compute().items()})
    assert metrics[0] == metrics[1]


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Raise an error where the CPU waits for the GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def check_batches(device: torch.device) -> None:
    """Images in the memory of a device, and their augmentation: the batches of the CPU, without waiting."""
    images = torch.randint(256, (40, 3, 32, 32), generator=keyed_generator("check images"), dtype=torch.uint8)
    stored = ImageTensors(images, torch.arange(40) % 10, tuple("0123456789"))
    there, index, found = stored.to(device), torch.arange(0, 40, 3), {}
    for each in (stored, there):
        with no_waiting(each.images.device):
            x, y, numbers = each[index]
            x = CropFlip()(x.float() / 255, keyed_generator("check augmentation"))
        assert x.device == y.device == numbers.device == each.images.device
        found[each is there] = x.cpu(), y.cpu(), numbers.cpu()
    assert all(torch.equal(a, b) for a, b in zip(found[True], found[False], strict=True))


def checks() -> Iterator[tuple[str, Check]]:
    """Every check by name, the most basic ones first."""
    yield "noise", check_noise_is_the_same
    yield "KAF against the formula", check_kaf_everywhere
    yield "KAF, second derivative", check_kaf_second_derivative
    yield "k-WTA is exact", check_kwta_is_exact
    yield "batches", check_batches
    for name, build in every_activation().items():
        yield f"activation {name}", functools.partial(check_activation, build)
    for name, objective in OBJECTIVES.items():
        yield f"objective {name}", functools.partial(check_objective, objective)
    for name, attack in ATTACKS.items():
        yield f"attack {name}", functools.partial(check_attack, attack)
    yield "metric", check_metric
    for name in NETS:
        yield f"net {name}", functools.partial(check_net, name)
    yield "nothing waits", check_nothing_waits
    for dtype in (torch.bfloat16, torch.float16):
        yield f"autocast {dtype}", functools.partial(check_half_precision, dtype)
    yield "torch.compile", functools.partial(check_compile, "KafVGG")
