"""What an attacker may do: the ball of perturbations around each image, stated once in a run and read by everyone."""

from kafnets.threat.l1 import L1
from kafnets.threat.model import ThreatModel
from kafnets.threat.norms import L2, Linf, Norm, per_image
from kafnets.threat.units import in_input_units, show_units

__all__ = ["L1", "L2", "Linf", "Norm", "ThreatModel", "in_input_units", "per_image", "show_units"]
