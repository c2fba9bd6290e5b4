"""Policies served over a websocket."""
