#!/usr/bin/env bash
# OPUS-100 as Zhang et al. (2020) set it up: 64,000 BPE pieces, target tag on the source, plain concatenation, Transformer base.
# CORPUS: where the corpus is or will be downloaded to. OUT: data, run, results. Needs a GPU and, by estimate, 30 GB.
set -euo pipefail
: "${CORPUS:?set CORPUS to a folder for the corpus}" "${OUT:?set OUT to a folder for data, run and results}"
verb() { "${PYTHON:-python}" -m fairseq_plugins.opus100 "$@"; }

[ -d "$CORPUS/opus-100-corpus" ] || verb download --out "$CORPUS"
verb prepare --corpus "$CORPUS" --data "$OUT/data" --pivot en --tags target --model-type bpe --vocab-size 64000
verb train --data "$OUT/data" --run "$OUT/run" --arch "${ARCH:-transformer_mt_base}" --sampling "${SAMPLING:-concat}" \
  --max-tokens 5000 --update-freq 5 --lr 7e-4 --warmup-updates 4000 --dropout 0.1 --max-update 500000
"${PYTHON:-python}" -m fairseq_plugins average "$OUT/run" --last 5 --output "$OUT/run/averaged.pt"
verb evaluate --data "$OUT/data" --run "$OUT/run" --checkpoint "$OUT/run/averaged.pt" --output "$OUT/results" --beam 4 --lenpen 0.6
verb report --results "$OUT/results" --runs "$OUT/run" --data "$OUT/data" --output "$OUT/report.html"
