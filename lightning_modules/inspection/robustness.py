"""The robust accuracy with which statistics of activations are compared."""

from collections.abc import Mapping, Sequence
from typing import Any


def robust_accuracies(networks: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """The robust accuracy of each network with its interval, all measured in the same way, and that way in words.

    It is the worst case of full evaluations if every network has one, on the same images and with the same attacks;
    otherwise the accuracy under the inspection's own attack, which is higher than the worst case.

    Args:
        networks: as an ``inspect.json`` holds them.
    """
    evaluations = [network["full_evaluation"] for network in networks]
    if all(evaluations) and len({_measured(each) for each in evaluations}) == 1:
        count = evaluations[0]["worst_case"]["images"]
        text = f"worst case of {len(evaluations[0]['attacks'])} attacks on {count:,} test images"
        return [each["worst_case"] for each in evaluations], text
    text = (
        f"accuracy under the attack of this page on {networks[0]['images']:,} images, since not every network has a "
        "full evaluation of the same kind (cli.py test --config eval_full.yaml)"
    )
    return [network["attacked"] for network in networks], text


def _measured(evaluation: Mapping[str, Any]) -> str:
    attacks = {name: each["attack"] for name, each in evaluation["attacks"].items()}
    return repr((evaluation.get("data_sha256"), evaluation["worst_case"]["images"], sorted(attacks.items())))
