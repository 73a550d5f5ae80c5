#!/usr/bin/env bash
# Sets up on the first run (see _setup.sh), then tests. SYSTEM=1 adds the tests that train for minutes; arguments go to
# pytest: ./scripts/test.sh tests/test_house.py -v. Without arguments every core takes one file of tests after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/_setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small matrices on several threads mostly wait for each other
[ $# -gt 0 ] || set -- --numprocesses auto --dist loadfile
"$PY" -m pytest ${SYSTEM:+-m ""} "$@"
