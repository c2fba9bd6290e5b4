"""LIBERO's task suites behind the project's environment contract.

Nothing is imported here: the suites need the optional packages `hf-libero`, `robosuite` and `bddl`, which
`sim.libero.suite.LiberoSuite` looks for when it is built.
"""
