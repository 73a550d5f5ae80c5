#!/usr/bin/env bash
# MiniLMv2: a small encoder learns the self-attention relations of a large one. MINILM=1: MiniLM, attention and values of
# the last layer, with as many attention heads in both.
# DATA: folder of `opus100 prepare` with the teacher's pieces. MONO: folder of `opus100 mono`. TEACHER: a checkpoint or a
# folder, see README.md. RUN: folder for checkpoints. PRESET: --arch of the student. HEADS: relation heads (48 for base
# teachers, 64 for large ones). GPUS: how many. UPDATES: of the training. Arguments of fairseq-train may follow.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${MONO:?set MONO to the folder that opus100 mono wrote}"
: "${TEACHER:?set TEACHER to the checkpoint or folder of the teacher}" "${RUN:?set RUN to a folder for checkpoints}"
python=${PYTHON:-python}
gpus=${GPUS:-1} updates=${UPDATES:-400000}
if [ -n "${MINILM:-}" ]; then
  relations=(--relations q-k,v-v --relation-heads 0)
else
  relations=(--relations q-q,k-k,v-v --relation-heads "${HEADS:-48}")
fi

# The recipe for BERT base (unverified): 256 texts of 512 tokens, warm-up of 4,000 updates, linear decay.
[ -e "$RUN/done.$updates" ] || "$python" -m fairseq_cli.train "$DATA" --user-dir "$("$python" -m fairseq_plugins path)" --task relation_distillation \
  --mono-data "$MONO" --texts "${TEXTS:-mono}" --teacher "$TEACHER" --criterion relation_distillation "${relations[@]}" \
  --arch "${PRESET:-minilm_6x384}" --optimizer fused_adam --adam-betas "(0.9, 0.999)" --adam-eps 1e-6 --weight-decay 0.01 --lr 6e-4 \
  --lr-scheduler polynomial_decay --warmup-updates $((updates > 40000 ? 4000 : updates / 10)) --total-num-update "$updates" \
  --max-update "$updates" --tokens-per-sample 512 --max-tokens 16384 --update-freq $(((8 + gpus - 1) / gpus)) \
  --save-dir "$RUN" --save-interval-updates 10000 --keep-interval-updates 2 --log-format json --log-file "$RUN.log" "$@"
mkdir -p "$RUN" && touch "$RUN/done.$updates"
