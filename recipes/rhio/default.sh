#!/usr/bin/env bash
# From data to the default model's adapter: rows, unfaithful answers, training, export. Runs on 2 CPU cores; each step goes
# on where it was stopped. DATA is the folder of data sets, OUT where everything goes, ROWS how many questions.
#
#   bash recipes/rhio/default.sh                          # about three hours on 2 CPU cores
#   ROWS=200 OUT=outputs/try bash recipes/rhio/default.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data}
OUT=${OUT:-outputs/default}
ROWS=${ROWS:-2000}

[ -f "$OUT/train.jsonl" ] || python recipes/rhio/build_training_data.py --shared "$DATA" --output "$OUT" --rows "$ROWS"

# RHIO samples at temperature 1; what this small model says then is mostly noise, at 0.7 it reads like an answer
sample=(faithgen data unfaithful --input "$OUT/train.jsonl" --temperature 0.7 --top-p 0.95 --max-new-tokens 96 --batch-size 16)
resume() { [ -f "$1" ] && echo --resume || true; }
"${sample[@]}" --output "$OUT/unfaithful.jsonl" $(resume "$OUT/unfaithful.jsonl")

last() { [ -d "$1" ] && echo "--resume_from_checkpoint true" || true; }
[ -f "$OUT/rhio/adapter_config.json" ] || faithgen train rhio --config recipes/rhio/default_cpu.yaml \
  --dataset_name "$OUT/unfaithful.jsonl" --output_dir "$OUT/rhio" $(last "$OUT/rhio")

# the arms it is compared with: faithful answers alone, and as many random heads masked
if [ "${ARMS:-}" = all ]; then
  [ -f "$OUT/sft/adapter_config.json" ] || faithgen train rhio --config recipes/rhio/default_cpu.yaml --unfaithful_weight 0 \
    --dataset_name "$OUT/unfaithful.jsonl" --output_dir "$OUT/sft" $(last "$OUT/sft")
  "${sample[@]}" --random-heads 1 --output "$OUT/random.jsonl" $(resume "$OUT/random.jsonl")
  [ -f "$OUT/random/adapter_config.json" ] || faithgen train rhio --config recipes/rhio/default_cpu.yaml \
    --dataset_name "$OUT/random.jsonl" --output_dir "$OUT/random" $(last "$OUT/random")
fi

rm -rf "$OUT/adapter"
faithgen export --checkpoint "$OUT/rhio" --output "$OUT/adapter" --dtype bfloat16
