"""Cameras with times, freshness and checks of what they see."""
