"""Pretraining of the embedded policy `reflex-tiny` on randomised scripted play."""
