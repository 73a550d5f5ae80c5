# Sourced by quickstart.sh and test.sh, from the root of the checkout. Leaves $PY, the Python that has everything.
#
# What the user may set:
#   VENV=DIR            the virtual environment to make or to use (default: .venv in the checkout)
#   USE_ACTIVE_ENV=1    install into the environment whose `python` comes first in PATH instead
#   PYTHON=COMMAND      the Python 3.11, 3.12 or 3.13 that makes the environment
#   TORCH_INDEX_URL=URL where torch comes from, if it is not there yet
#   MIN_FREE_MB=N       refuse to start with less free disk space than this
#   SETUP_ONLY=1        stop after the set-up
#
# The package is installed as a copy, not editable: only then does a bare `--user-dir fairseq_plugins` work from any
# directory. A later run notices edited sources and renews the copy (seconds); in the checkout the checkout's files win.

TORCH_VERSION=2.13.0
ENGINE=fairseq-fixed==0.12.3.1
VERSION_FITS='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
WANTED="Python 3.11, 3.12 or 3.13 is needed"

fail() { echo "error: $*" >&2; exit 1; }
say() { echo "[set-up] $*"; }

# Prints the first usable interpreter; explains the nearest miss if there is none. 3.12 first: the engine has a wheel.
find_python() {
  local candidate without_venv= found=
  for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3 python}; do
    "$candidate" -c '' 2>/dev/null || continue
    found="$found $("$candidate" -c 'import platform; print(platform.python_version())')"
    "$candidate" -c "$VERSION_FITS" || continue
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then echo "$candidate"; return; fi
    without_venv=$candidate
  done
  [ -z "$without_venv" ] ||
    fail "$without_venv has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv) or set PYTHON."
  fail "$WANTED, found:${found:- none}; install one or name it with PYTHON=/path/to/python3.12."
}

# Whether torch comes with its CUDA packages: so it does from the default index on Linux, with a GPU or without.
# $1: a Python whose pip knows the user's settings; more places to look at may well hold a CPU build.
gets_cuda() {
  case $OSTYPE in linux*) ;; *) return 1 ;; esac
  [ -z "${TORCH_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}" ] &&
    ! "$1" -m pip config list 2>/dev/null | grep -E '\.(extra-index-url|find-links)=' >/dev/null
}

# $1: the directory to be filled. Its nearest existing parent tells the free space. $2: a Python, see gets_cuda.
check_space() {
  local folder=$1 have need=3000 hint= # MB; measured 1.6 GB installed, and pip unpacks before it installs
  if [ -n "${MIN_FREE_MB:-}" ]; then
    need=$MIN_FREE_MB
  elif gets_cuda "$2"; then
    hint=" (3000 MB with TORCH_INDEX_URL=<PyTorch's CPU wheel index>)"
    need=10000
  fi
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  have=$(df -Pk "$folder" | awk 'END { print int($4 / 1024) }')
  [ "$have" -ge "$need" ] ||
    fail "$folder has $have MB of free disk space, the set-up needs $need MB$hint; free some or set VENV elsewhere."
}

# pip, quietly: everything goes to the log, and a failure becomes one sentence. $1 names what is being installed.
install() {
  local what=$1
  shift
  say "installing $what"
  "$PY" -m pip install --disable-pip-version-check "$@" >>"$LOG" 2>&1 && return
  ! tail -n 50 "$LOG" | grep -i 'no space left on device' >/dev/null ||
    fail "the disk ran full while installing $what; free some space or set VENV and TMPDIR to another disk."
  fail "pip could not install $what; the reason stands at the end of $LOG."
}

# The version of an installed distribution, nothing if it is missing. -P: never one that lies in the checkout.
installed() {
  "$PY" -P -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1" 2>/dev/null || true
}

# The engine is compiled where no wheel fits this Python: find out before gigabytes are downloaded for nothing.
check_compiler() {
  local variable tool
  "$PY" -m pip download --disable-pip-version-check --no-deps --only-binary=:all: -d "$WORK" "$ENGINE" >>"$LOG" 2>&1 &&
    return
  for variable in CC CXX; do
    tool=$("$PY" -c 'import os, sys, sysconfig; name = sys.argv[1]
print((os.environ.get(name) or sysconfig.get_config_var(name) or "c++").split()[0])' "$variable")
    command -v "$tool" >/dev/null ||
      fail "the engine must be compiled for this Python and $tool is missing; install a C++ compiler" \
        "(Debian, Ubuntu: apt-get install g++) or use Python 3.12 on x86-64 Linux."
  done
  "$PY" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "the engine must be compiled for this Python and its header Python.h is missing; install it" \
      "(Debian, Ubuntu: apt-get install python3-dev) or use Python 3.12 on x86-64 Linux."
}

# What the environment holds and what the checkout asks for. As long as this equals the stamp, there is nothing to do.
state() {
  "$PY" -P - <<'PYTHON'
import hashlib, importlib.metadata, pathlib, platform, sys

print("python", platform.python_version(), sys.prefix)
for name in ("torch", "fairseq-fixed", "sentencepiece", "sacrebleu", "pytest", "fairseq_plugins"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "missing")
wanted = b"".join(pathlib.Path(name).read_bytes() for name in ("setup.py", "pyproject.toml", "scripts/_setup.sh"))
print("wanted", hashlib.sha256(wanted).hexdigest())
sources = hashlib.sha256()
for path in sorted(pathlib.Path("fairseq_plugins").rglob("*")):
    if path.is_file() and path.suffix != ".pyc":
        sources.update(f"{path}\0".encode() + path.read_bytes())
print("sources", sources.hexdigest())
PYTHON
}

# $1: what to say; $2: extras; the rest goes to pip. Built from a clean copy: neither an old build/ with files that are
# gone nor a read-only checkout can spoil the result.
install_package() {
  local what=$1 extras=$2
  shift 2
  rm -rf "$WORK/package"
  mkdir "$WORK/package"
  cp -R setup.py pyproject.toml README.md LICENSE fairseq_plugins "$WORK/package/"
  install "$what" --no-build-isolation "$@" "$WORK/package$extras"
}

set_up() {
  local started=$SECONDS
  "$PY" -m pip --version >/dev/null 2>&1 || "$PY" -m ensurepip >>"$LOG" 2>&1 ||
    fail "$PY has no pip; install it or remove $ENV_DIR."
  [ -n "$(installed fairseq-fixed)" ] || check_compiler
  if ! installed torch | awk -F. '{ fits = $1 > 2 || ($1 == 2 && $2 >= 6) } END { exit !fits }'; then
    check_space "$ENV_DIR" "$PY"
    if [ -z "${TORCH_INDEX_URL:-}" ] && ! command -v nvidia-smi >/dev/null; then
      say "no NVIDIA GPU found: TORCH_INDEX_URL=<PyTorch's CPU wheel index> saves gigabytes where pip would take CUDA"
    fi
    install "torch $TORCH_VERSION" "torch==$TORCH_VERSION" ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"}
  fi
  echo "torch==$(installed torch)" >"$WORK/keep" # nothing below may exchange the torch that is there
  install "what the engine is built with" -c "$WORK/keep" numpy cython setuptools wheel
  # Build isolation would fetch another torch just to build. With CUDA_HOME set the build wants .cu sources, which the
  # engine does not ship.
  (unset CUDA_HOME && install "the engine (some minutes where it is compiled)" -c "$WORK/keep" --no-build-isolation \
    --find-links "$WORK" "$ENGINE") || exit 1
  install_package "fairseq_plugins and what it needs" "[test]" -c "$WORK/keep"
  "$PY" -m fairseq_plugins doctor >>"$LOG" 2>&1 ||
    fail "the set-up is broken; this explains it: $PY -m fairseq_plugins doctor"
  say "done in $((SECONDS - started)) s: $ENV_DIR"
}

if [ -n "${USE_ACTIVE_ENV:-}" ]; then
  PY=$(command -v "${PYTHON:-python}") || fail "USE_ACTIVE_ENV is set but PATH has no python; activate one first."
  "$PY" -c "$VERSION_FITS" || fail "$WANTED but USE_ACTIVE_ENV means $PY, $("$PY" -V 2>&1); activate another."
  ENV_DIR=$("$PY" -c 'import sys; print(sys.prefix)')
else
  ENV_DIR=${VENV:-$PWD/.venv}
  case $ENV_DIR in /*) ;; *) ENV_DIR=$PWD/$ENV_DIR ;; esac
  PY=$ENV_DIR/bin/python
  if [ -x "$PY" ]; then
    "$PY" -c "$VERSION_FITS" ||
      fail "$WANTED but $ENV_DIR holds $("$PY" -V 2>&1); remove it or set VENV to another directory."
  else
    [ ! -d "$ENV_DIR" ] || [ -f "$ENV_DIR/pyvenv.cfg" ] || [ -z "$(ls -A "$ENV_DIR")" ] ||
      fail "$ENV_DIR exists and is not a virtual environment; set VENV to another directory."
    BASE=$(find_python)
    check_space "$ENV_DIR" "$BASE"
    say "making $ENV_DIR with $("$BASE" -V 2>&1)"
    "$BASE" -m venv "$ENV_DIR" >/dev/null || fail "$BASE could not make a virtual environment in $ENV_DIR."
  fi
fi
STAMP=$ENV_DIR/fairseq_plugins.setup
LOG=$ENV_DIR/fairseq_plugins.log

if [ "$(state)" != "$(cat "$STAMP" 2>/dev/null)" ]; then
  { : >"$LOG"; } 2>/dev/null || fail "$ENV_DIR cannot be written; set VENV to another directory."
  WORK=$(mktemp -d) || fail "no temporary directory can be made; set TMPDIR to a disk with free space."
  trap 'rm -rf "$WORK"' EXIT
  if [ "$(state | grep -v '^sources')" = "$(grep -v '^sources' "$STAMP" 2>/dev/null)" ]; then
    install_package "fairseq_plugins again, its sources changed" "" --no-deps --force-reinstall
  else
    set_up
  fi
  state >"$STAMP"
fi
if [ -n "${SETUP_ONLY:-}" ]; then exit 0; fi
