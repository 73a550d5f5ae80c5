#!/usr/bin/env bash
# The main job on a small corpus that the package writes itself: corpus -> data -> training -> BLEU table -> report.
# Sets up on the first run (see _setup.sh). Can be stopped at any time: the same command goes on where it was.
#   ./scripts/quickstart.sh [OUT]     OUT: folder for everything it makes (default: quickstart)
set -euo pipefail
out=${1:-quickstart}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/_setup.sh

opus100() {
  printf '\n$ python -m fairseq_plugins.opus100'
  printf ' %q' "$@"
  printf '\n'
  "$PY" -m fairseq_plugins.opus100 "$@"
}

# Which flags reach the documented BLEU is written beside the corpus, by the verb that knows the corpus.
read_flags() {
  flags=()
  while IFS= read -r flag; do flags+=("$flag"); done < <("$PY" -c 'import json, sys
print(*json.load(open(sys.argv[1]))[sys.argv[2]], sep="\n")' "$out/recipe.json" "$1")
}

started=$SECONDS
opus100 sample "$out" >/dev/null
read_flags prepare
opus100 prepare --corpus "$out" --out "$out/data" "${flags[@]}"
read_flags train
opus100 train --data "$out/data" --run "$out/run" "${flags[@]}"
opus100 evaluate --data "$out/data" --run "$out/run" --output "$out/results"
opus100 report --results "$out/results" --runs "$out/run" --names deepnet_mt_tiny --title "Quickstart" \
  --data "$out/data" --output "$out/report.html"

cat <<END

Done in $((SECONDS - started)) s: wrote a corpus of five languages, learnt subwords, trained deepnet_mt_tiny from and
into English with fairseq-train, translated and scored these eight directions and eight that were never trained.
  table   $out/results/results.md
  report  $out/report.html
  model   $out/run/checkpoint_best.pt

The next command, for the real OPUS-100 (100 languages, 55 million sentence pairs):
  $PY -m fairseq_plugins.opus100 download --out opus100
After it come the verbs above with --arch deepnet_mt_36l; README.md has the whole list.
END
