#!/usr/bin/env bash
# What pre-training is worth with 2,000 sentence pairs: from scratch, and after SC, SC+MT, SC+TPSC, SC+TSC, SC+TSC with PNAT.
# CORPUS: folder in OPUS-100's layout. OUT: everything is written there; the same command goes on where it was stopped.
# UPDATES, FINE_TUNING_UPDATES, SEED: of every arm. One thread each, two arms at a time.
set -euo pipefail
: "${CORPUS:?set CORPUS to a corpus in the layout of OPUS-100}" "${OUT:?set OUT to a folder for data, runs and results}"
python=${PYTHON:-python}
seed=${SEED:-1} updates=${UPDATES:-3000}
. "$(dirname "$0")/../side_by_side.sh"
same_as_before "$OUT" "UPDATES or SEED" "$updates" "$seed"
verb() { "$python" -m fairseq_plugins.opus100 "$@"; }

"$python" "$(dirname "$0")/divide_corpus.py" --corpus "$CORPUS" --out "$OUT/parts" --fine-tune 2000 --parallel 10000
verb prepare --corpus "$CORPUS" --data "$OUT/vocabulary" --vocab-size 8000
verb prepare --corpus "$OUT/parts/parallel" --data "$OUT/parallel" --vocabulary "$OUT/vocabulary"
verb prepare --corpus "$OUT/parts/fine_tune" --data "$OUT/fine_tune" --vocabulary "$OUT/vocabulary"
verb mono --data "$OUT/vocabulary" --out "$OUT/mono" --text "cs=$OUT/parts/mono/cs.txt" --text "de=$OUT/parts/mono/de.txt" \
  --text "en=$OUT/parts/mono/en.txt" --text "fr=$OUT/parts/mono/fr.txt"
user_dir=$("$python" -m fairseq_plugins path)

mkdir -p "$OUT/pretraining"
shape=()
for side in encoder decoder; do
  shape+=("--$side-layers" 3 "--$side-embed-dim" 128 "--$side-ffn-embed-dim" 512 "--$side-attention-heads" 4)
done
pretrain() { # name, objectives, groups
  [ -e "$OUT/pretraining/$1.done" ] && return # fairseq-train looks at --max-update only after a step: it would take one more
  OMP_NUM_THREADS=1 "$python" -m fairseq_cli.train "$OUT/parallel" --user-dir "$user_dir" --task mt6_pretraining \
    --mono-data "$OUT/mono" --objectives "$2" --pnat-groups "$3" --language-tags --tokens-per-sample 128 \
    --criterion mt6_pretraining --arch transformer_mt --residual pre "${shape[@]}" --share-all-embeddings --dropout 0.1 \
    --optimizer fused_adam --adam-betas "(0.9, 0.98)" --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 500 \
    --max-tokens 2048 --required-batch-size-multiple 1 --cpu --num-workers 0 --seed "$seed" --max-update "$updates" \
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints --validate-interval-updates 1000 \
    --save-dir "$OUT/pretraining/$1" --log-format json --log-interval 100 --log-file "$OUT/pretraining/$1.log"
  touch "$OUT/pretraining/$1.done"
}
fine_tune() { # name, then arguments of `opus100 train`
  local name=$1
  shift
  verb train --data "$OUT/fine_tune" --run "$OUT/runs/$name" --arch transformer_mt --dropout 0.1 --max-tokens 2048 --sampling concat \
    --lr 1e-3 --warmup-updates 300 --max-update "${FINE_TUNING_UPDATES:-1500}" --threads 1 --seed "$seed" \
    --save-interval-updates 250 --keep-checkpoints 1 "$@" -- "${shape[@]}" --residual pre --required-batch-size-multiple 1
  verb evaluate --data "$OUT/fine_tune" --run "$OUT/runs/$name" --output "$OUT/results/$name"
}
arm() { # name, objectives, groups
  pretrain "$@"
  fine_tune "$1" --init-from "$OUT/pretraining/$1/checkpoint_last.pt"
}
beside fine_tune scratch
beside arm sc sc 1
together
beside arm sc_mt sc,mt 1
beside arm sc_tpsc sc,tpsc 1
together
beside arm sc_tsc sc,tsc 1
beside arm sc_tsc_pnat sc,tsc 3
together

verb compare --data "$OUT/fine_tune" --results "$OUT/results/"{scratch,sc,sc_mt,sc_tpsc,sc_tsc,sc_tsc_pnat} --output "$OUT/comparison"
