"""Environments over worker processes, stepped a chunk of actions at a time."""

from sim.pool.pool import ChunkResult, EnvironmentPool, EnvironmentPoolError, EpisodeRequest

__all__ = ["ChunkResult", "EnvironmentPool", "EnvironmentPoolError", "EpisodeRequest"]
