"""Policies served over a websocket, in openpi's wire format (`vla serve`)."""
