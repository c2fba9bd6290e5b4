"""Policies behind a websocket, in openpi's wire format: the messages, what a server says of itself, and the client."""
