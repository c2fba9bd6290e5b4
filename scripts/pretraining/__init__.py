"""How the shipped base policy was made: scripted play, then imitation with auxiliaries."""
