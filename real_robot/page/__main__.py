"""`python -m real_robot.page LISTENER CHANNEL STEPS PICTURES` (descriptors): started by the control loop only."""

import sys

from real_robot.page.process import main

sys.exit(main(sys.argv[1:]))
