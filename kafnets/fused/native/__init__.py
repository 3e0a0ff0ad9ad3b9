"""The C++ code that computes chains of convolutions, and the Python code that prepares what it reads."""
