#!/usr/bin/env bash
# Installs LIBERO's task builder into the environment of the interpreter given (default: python).
#
# hf-libero 0.1.4 and bddl 1.0.1 come without their dependencies: those bring torchvision, robomimic, wandb and jupytext,
# none of which is used to build or step a task. What is used is the extra `libero` of this project.
# The scenes' meshes and textures are not part of it: point LIBERO_ASSETS at a copy of LIBERO's `assets` folder.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python}"
"$python" -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[libero]'
"$python" -m pip install --disable-pip-version-check -q --no-deps hf-libero==0.1.4 bddl==1.0.1
