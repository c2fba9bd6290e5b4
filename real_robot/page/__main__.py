"""`python -m real_robot.page LISTENER CHANNEL STEPS PICTURES` (descriptors): the control loop starts it, nobody else."""

import sys

from real_robot.page.process import main

sys.exit(main(sys.argv[1:]))
