# Sourced by scripts that train several models at a time.
#
# beside COMMAND ...   runs it in the background, in a process group of its own
# together             waits for all of them
#
# same_as_before OUT NAMES VALUE ...  refuses a folder that holds a comparison of other values of the variables NAMES
#
# If one fails, or the script is interrupted, the others are stopped as Ctrl-C stops them, so that each ends in order.

stop_all() {
  trap '' USR1 INT
  for job in $(jobs -p); do kill -INT -- "-$job" 2>/dev/null || true; done
  wait
}
beside() { # a failure is reported to the script itself
  set -m
  trap stop_all EXIT
  trap 'exit 1' USR1
  (
    trap '[ $? -eq 0 ] || kill -USR1 $$' EXIT
    "$@"
  ) &
}
together() {
  wait
  trap - EXIT USR1
  set +m
}
same_as_before() { # what is done would be taken for the new
  local out=$1 names=$2 began
  shift 2
  began=$out/began$(printf '.%s' "$@")
  if [ ! -e "$began" ] && compgen -G "$out/began.*" > /dev/null; then
    echo "error: OUT $out holds a comparison of other $names; give another folder" >&2
    exit 1
  fi
  mkdir -p "$out" && touch "$began"
}
