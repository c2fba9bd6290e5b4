"""Robots made of software that speak the wire protocols of real ones, for tests and for trying things out."""
