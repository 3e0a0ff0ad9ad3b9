"""The labels of a run by which runs are told apart."""

import re
from typing import Any

from kafnets.threat import show_units

AVERAGED = re.compile(r" of \d+ steps$")
FELL_BACK = re.compile(r"\bfrom step \d+ ")


def labels(record: dict[str, Any]) -> dict[str, str]:
    """Return all labels of a run as texts, without numbers that depend on the course of a single run.

    Those are the number of steps that an average of weights has seen until the best epoch, and the step at which a
    collapsed training fell back to another objective. They differ between seeds of one training.

    Example:
        >>> run = {"weights": "even average of 320 steps", "objective": "FGSM, from step 40 PGD", "eps": 8 / 255}
        >>> labels({"run": run})
        {'weights': 'even average', 'objective': 'FGSM, then PGD', 'eps': '8/255'}
    """
    shown = record["run"] | {"eps": show_units(record["run"]["eps"])}
    return {name: FELL_BACK.sub("then ", AVERAGED.sub("", str(value))) for name, value in shown.items()}
