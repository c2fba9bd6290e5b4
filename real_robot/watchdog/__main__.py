"""`python -m real_robot.watchdog SETTINGS`: started by the control loop, never by hand."""

import sys

from real_robot.watchdog.process import main

sys.exit(main(sys.argv[1:]))
