"""robosuite 1.4's own tasks behind this project's contract, stepped by `sim.core` as LIBERO's are."""
