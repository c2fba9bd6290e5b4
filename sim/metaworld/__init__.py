"""MetaWorld's 50 tasks behind the project's environment contract.

Nothing is imported here: the suite needs the optional package `metaworld`, which `sim.metaworld.suite.MetaWorldSuite`
looks for when it is built.
"""
