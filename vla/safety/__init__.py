"""What keeps a robot within its limits: the same objects in simulation, in training, in replay and on the arm."""
