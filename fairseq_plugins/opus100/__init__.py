"""The OPUS-100 road: raw corpus -> binarised data -> training -> BLEU table -> report. One file per verb."""
