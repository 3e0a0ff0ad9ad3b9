"""The threat model of a run: which perturbations an attacker may add to an image."""

from kafnets.threat.l1 import L1
from kafnets.threat.model import ThreatModel, as_norm
from kafnets.threat.norms import L2, Linf, Norm, per_image
from kafnets.threat.units import in_input_units, show_units

__all__ = ["L1", "L2", "Linf", "Norm", "ThreatModel", "as_norm", "in_input_units", "per_image", "show_units"]
