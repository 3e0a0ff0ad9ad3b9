"""What stands between the command line and Lightning: config files, run folders, checkpoints, readable errors."""
