#!/usr/bin/env bash
# UniLMv2 fine-tuned for translation with stock commands: one direction of DATA, folder of `opus100 prepare`. RUN: folder for checkpoints and hypotheses.
# INIT: checkpoint of `--task pseudo_masked_lm`. PAIR: the direction. UPDATES: of the training. Arguments of fairseq-train may follow.
set -euo pipefail
: "${DATA:?set DATA to the folder that opus100 prepare wrote}" "${RUN:?set RUN to a folder for checkpoints}"
: "${INIT:?set INIT to a checkpoint of fairseq-train --task pseudo_masked_lm}"
python=${PYTHON:-python} pair=${PAIR:-de-en} updates=${UPDATES:-10000}
plugins=$("$python" -m fairseq_plugins path)
task=(--task translation_multi_simple_epoch --lang-dict "$DATA/languages.txt" --fixed-dictionary "$DATA/dict.txt" --lang-pairs "$pair" --encoder-langtok tgt)

# The paper's fine-tuning on CNN / Daily Mail: 7e-5, batches of 64, warm-up over 2 % of the updates, label smoothing 0.1, beam 5.
# It also forbids repeated trigrams (--no-repeat-ngram-size 3): right for summaries, wrong for translations.
[ -e "$RUN/done.$updates" ] || "$python" -m fairseq_cli.train "$DATA" --user-dir "$plugins" "${task[@]}" \
  --arch "${PRESET:-unilmv2_seq2seq}" --pretrained-checkpoint "$INIT" --max-source-positions "${LONGEST_SOURCE:-351}" --max-target-positions "${LONGEST_TARGET:-160}" \
  --target-mask-prob "${TARGET_MASK:-0}" --criterion chunked_label_smoothed_cross_entropy --label-smoothing 0.1 \
  --optimizer fused_adam --adam-betas "(0.9, 0.999)" --weight-decay 0.01 --lr "${LR:-7e-5}" --lr-scheduler polynomial_decay \
  --warmup-updates $((updates / 50)) --total-num-update "$updates" --max-update "$updates" --batch-size 64 --max-tokens 8192 \
  --skip-invalid-size-inputs-valid-test --save-dir "$RUN" --save-interval-updates 1000 --keep-interval-updates 2 --log-format json --log-file "$RUN.log" "$@"
mkdir -p "$RUN" && touch "$RUN/done.$updates"

"$python" -m fairseq_cli.generate "$DATA" --user-dir "$plugins" "${task[@]}" -s "${pair%-*}" -t "${pair#*-}" \
  --path "$RUN/checkpoint_best.pt" --gen-subset test --beam 5 --lenpen 0.7 --max-len-b 120 --batch-size 64 --remove-bpe sentencepiece \
  --skip-invalid-size-inputs-valid-test > "$RUN/hypotheses.txt"
