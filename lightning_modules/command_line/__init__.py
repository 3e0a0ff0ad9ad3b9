"""The command line before Lightning reads it: config files, run folders, checkpoints, readable errors."""
