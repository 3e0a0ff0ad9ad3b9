"""Studies: grids of runs, each member a plain ``cli.py fit``, and the records that their members leave."""
