#!/usr/bin/env bash
# Runs the tests in several processes. A whole run keeps every core busy with real servers, so what fails in it is run
# once more, alone: what is wrong fails again and fails the run, what only starved says so and does not.
set -uo pipefail
python=$1
shift
export PYTHONDONTWRITEBYTECODE=
together=(-n auto --dist loadfile --no-loadscope-reorder)
"$python" -m pytest "${together[@]}" "$@"
code=$?
if [ "$code" -ne 1 ] || [ "$#" -ne 0 ]; then
  exit "$code"  # all is well, or it was no test that failed, or somebody looks at certain tests
fi
echo "== what failed beside others, again and alone"
exec "$python" -m pytest -n 0 --last-failed --last-failed-no-failures none
