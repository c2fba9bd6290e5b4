"""Run folders, checkpoints, seeds, devices, progress bars: what every command needs."""
