"""The control loop of a real arm: observe, decide, filter, command, at a fixed rate."""
