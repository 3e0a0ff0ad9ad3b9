"""The folder of a network: ``model.safetensors`` and ``card.json``."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from kafnets.backbones import Backbone
from kafnets.files import written_whole
from kafnets.saved.blueprint import build

FORMAT = "kafnets-1"
WEIGHTS, CARD = "model.safetensors", "card.json"


def write_network(folder: Path, net: Backbone, blueprint: dict[str, Any], about: Mapping[str, Any]) -> None:
    """Write the weights of a network and its card.

    Args:
        folder: an existing folder.
        net: the network.
        blueprint: how to build it, see :mod:`kafnets.saved.blueprint`.
        about: further entries of the card, values of JSON.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}
    weights = safetensors.torch.save(state)
    card = {"format": FORMAT, **about, "network": blueprint}
    card["sha256"] = {WEIGHTS: hashlib.sha256(weights).hexdigest(), "network": _digest(blueprint)}
    with written_whole(folder / WEIGHTS) as part:
        part.write_bytes(weights)
    with written_whole(folder / CARD) as part:
        part.write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_network(folder: str | Path, *, own: Iterable[Callable[..., Any]] = ()) -> Backbone:
    """Read what :func:`write_network` wrote; see :func:`kafnets.load`."""
    folder = Path(folder)
    card = _read_card(folder / CARD)
    weights = _read_bytes(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != card["sha256"][WEIGHTS]:
        raise ValueError(f"{folder / WEIGHTS} is not the file that {CARD} describes: it is altered or incomplete")
    try:
        net = build(card["network"], own)
    except ValueError as error:
        raise ValueError(f"{folder / CARD}: {error}") from error
    if not isinstance(net, Backbone):
        raise ValueError(f"{folder / CARD} describes a {type(net).__name__}, which is no network of kafnets")
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is no file of safetensors: {error}") from None
    _put_in(net, state, folder / WEIGHTS)
    return net.eval()


def _digest(blueprint: Any) -> str:
    return hashlib.sha256(json.dumps(blueprint, sort_keys=True).encode()).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; give a folder that `cli.py export` wrote") from None


def _read_card(path: Path) -> dict[str, Any]:
    content = _read_bytes(path)
    try:
        card = json.loads(content)
        kind, network, hashes = card["format"], card["network"], card["sha256"]
        stated = hashes[WEIGHTS], hashes["network"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is no card of a network, or damaged: {error!r}") from None
    if kind != FORMAT:
        raise ValueError(
            f"{path} has the format {kind!r}, this kafnets reads {FORMAT!r}; install the one that wrote it"
        )
    if stated[1] != _digest(network):
        raise ValueError(f"{path} has been altered: its network is not the one whose hash it states")
    return card


def _put_in(net: Backbone, state: dict[str, Tensor], source: Path) -> None:
    """Load the tensors, all of them and nothing else, exactly as they are."""
    wanted = net.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in wanted]
    for name in wanted.keys() & state.keys():
        (kind, shape), (dtype, size) = ((t.dtype, tuple(t.shape)) for t in (state[name], wanted[name]))
        if (kind, shape) != (dtype, size):
            problems.append(f"{name} is {kind} {shape}, the network's {dtype} {size}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{source} does not fit its network: {problems[0]}{more}")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit its network: {' '.join(str(error).split())}") from None
    kept = net.state_dict()
    if changed := [name for name, value in state.items() if not torch.equal(kept[name], value)]:
        raise ValueError(f"{source} does not fit its network, which does not take {changed[0]} as it is")
