"""Offline to online: critics and policy of `vla offline` go on learning in a suite, beside the logs."""
