"""`python -m real_robot.page LISTENER CHANNEL PICTURES` (descriptors): started by the control loop, never by hand."""

import sys

from real_robot.page.process import main

sys.exit(main(sys.argv[1:]))
