"""A process of its own that stops the arm when the control loop does not answer, or when the operator says so."""
