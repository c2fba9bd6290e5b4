"""Scripted experts: policies with access to the simulator's true state, which make demonstrations."""
