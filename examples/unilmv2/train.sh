#!/usr/bin/env bash
# UniLMv2: pre-train one encoder as a pseudo-masked language model, on text and, with TEXTS=mono,pairs, on translation pairs.
# DATA: folder of `opus100 prepare`. MONO: folder of `opus100 mono`. RUN: folder for checkpoints. GPUS: how many.
# PRESET: --arch. UPDATES: of the training. Arguments of fairseq-train may follow. Then: translate.sh, classify.sh.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${MONO:?set MONO to the folder that opus100 mono wrote}"
: "${RUN:?set RUN to a folder for checkpoints}"
python=${PYTHON:-python}
gpus=${GPUS:-1} updates=${UPDATES:-500000}

# The paper's batch: 7,680 texts of 512 tokens; 16 texts, 8,192 tokens, fit on a GPU. Its warm-up: 24,000 of
# 500,000 updates. Not again where it is done: fairseq-train looks at --max-update only after a step.
[ -e "$RUN/done.$updates" ] || "$python" -m fairseq_cli.train "$DATA" --user-dir "$("$python" -m fairseq_plugins path)" --task pseudo_masked_lm \
  --mono-data "$MONO" --texts "${TEXTS:-mono}" --objectives ae,par --mask-prob 0.15 --block-probability 0.4 --longest-block 6 \
  --leave-unmasked-prob 0.1 --random-token-prob 0.1 --criterion pseudo_masked_lm --arch "${PRESET:-unilmv2_base}" \
  --optimizer fused_adam --adam-betas "(0.9, 0.98)" --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 0.0 --lr 6e-4 \
  --lr-scheduler polynomial_decay --warmup-updates $((updates * 48 / 1000)) --total-num-update "$updates" --max-update "$updates" \
  --tokens-per-sample 512 --max-tokens 8192 --update-freq $(((480 + gpus - 1) / gpus)) --save-dir "$RUN" \
  --save-interval-updates 10000 --keep-interval-updates 2 --log-format json --log-file "$RUN.log" "$@"
mkdir -p "$RUN" && touch "$RUN/done.$updates"
