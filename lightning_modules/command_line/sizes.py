"""Classes, channels and pixels: the data tells them, and the network of a run is built to fit."""

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from kafnets.backbones import Backbone

SIZES = ("num_classes", "in_channels", "image_size")


def size_flags(stated: Namespace, data_class: type, *, trained: bool) -> list[str]:
    """Return the flags by which the network takes over the sizes of the data.

    Args:
        stated: the settings ``model`` and ``data`` of a run, without defaults.
        data_class: the base class of all data modules.
        trained: whether the network comes from a checkpoint, so that only the data can change.

    Raises:
        ValueError: if a size is stated for the network and the data has another.
    """
    parser = _parser(data_class)
    data = parser.instantiate(parser.parse_object({"it": stated.data.as_dict()})).it
    net = stated.model.init_args.net
    given = vars(net.get("init_args", Namespace()))
    for name in given.keys() & set(SIZES):
        check_size(name, getattr(data, name), given[name], data, net.class_path.rpartition(".")[2], trained=trained)
    accepted = _parser(Backbone).parse_object({"it": net.as_dict()}).it.init_args
    return [f"--model.net.{name}={getattr(data, name)}" for name in SIZES if name in accepted and name not in given]


def check_size(name: str, found: int, built_for: int, data: Any, net: str, *, trained: bool) -> None:
    """Raise ``ValueError`` unless the network is built for the size of the data; say which flag mends it."""
    if found == built_for:
        return
    remedies = [] if trained else [f"--model.net.{name}={found}"]
    if name == "image_size":
        remedies.append(f"--data.image_size={built_for} to resize the images")
    advice = f"pass {', or '.join(remedies)}" if remedies else f"choose data with {name}={built_for}"
    raise ValueError(f"{type(data).__name__} has {name}={found}, and {net} is built for {name}={built_for}; {advice}")


def _parser(kind: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "it")
    return parser
