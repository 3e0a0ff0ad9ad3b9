"""Networks as folders to pass on: weights, a card that says what they are, and optionally an ONNX file."""

from kafnets.saved.blueprint import build, name_of
from kafnets.saved.folder import read_network, write_network
from kafnets.saved.onnx_file import check_onnx_installed, write_onnx

__all__ = ["build", "check_onnx_installed", "name_of", "read_network", "write_network", "write_onnx"]
