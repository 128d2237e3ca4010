#!/usr/bin/env bash
# From data to the default model's adapter: rows, unfaithful answers, training, export; and, with ARMS=all, what it is
# compared with. Needs the extras `train` and `eval` in the active environment. Each step goes on where it was stopped.
# DATA is the folder of data sets, OUT where everything goes, ROWS how many questions; give another OUT for another ROWS.
#
#   bash recipes/rhio/default.sh                          # about an hour and a half on 2 CPU cores
#   ARMS=all bash recipes/rhio/default.sh                 # the shipped adapter and the table in recipes/rhio/README.md
#   ROWS=60 OUT=outputs/try bash recipes/rhio/default.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data}
OUT=${OUT:-outputs/default}
ROWS=${ROWS:-1200}
MODEL=default-base
ABOUT="training splits of QED (CC BY-SA 3.0), PubMedQA's labelled part (MIT), 2WikiMultihopQA (Apache-2.0), HotpotQA (CC BY-SA 4.0) and \
MuSiQue (CC BY 4.0); unfaithful answers by the model itself, see recipes/rhio/README.md of faithgen"

[ -f "$OUT/train.jsonl" ] || python recipes/rhio/build_training_data.py --shared "$DATA" --output "$OUT" --rows "$ROWS"

sample() { # NAME OPTIONS...
  local file="$OUT/$1.jsonl" resume=()
  if grep -qs '"finished": true' "$OUT/$1.summary.json"; then return; fi
  if [ -f "$file" ]; then resume=(--resume); fi
  faithgen data unfaithful --model $MODEL --input "$OUT/train.jsonl" --output "$file" --max-new-tokens 96 --batch-size 16 \
    "${resume[@]}" "${@:2}"
}
train() { # METHOD NAME ROWS OPTIONS...
  local folder="$OUT/$2" resume=()
  if [ -f "$folder/faithgen_training.json" ]; then return; fi # written last
  if compgen -G "$folder/checkpoint-*/trainer_state.json" >/dev/null; then
    resume=(--resume_from_checkpoint true)
  else
    rm -rf "$folder"
  fi
  faithgen train "$1" --config "recipes/$1/default_cpu.yaml" --dataset_name "$3" --dataset_description "$ABOUT" --output_dir "$folder" \
    "${resume[@]}" "${@:4}"
}

# RHIO samples at temperature 1; what this small model says then is mostly noise, at 0.7 it reads like an answer
cool=(--temperature 0.7 --top-p 0.95)
sample unfaithful "${cool[@]}"
if [ "${ARMS:-}" = all ]; then
  sample random "${cool[@]}" --random-heads 1
  python recipes/rhio/select_rows.py --output "$OUT/arms" "rhio=$OUT/unfaithful.jsonl" "random=$OUT/random.jsonl"
  train rhio rhio "$OUT/arms/rhio.jsonl"
  train rhio sft "$OUT/arms/rhio.jsonl" --unfaithful_weight 0 --share_prompt false
  train rhio random "$OUT/arms/random.jsonl"
  sample own_and_masked --own-answers --threshold 0.1 --temperature 0.6 --top-p 1.0 --keep supported
  pairs=$(wc -l <"$OUT/arms/rhio.jsonl")
  train retmask retmask "$OUT/own_and_masked.jsonl" --max_steps $(((pairs + 3) / 4)) # as many steps, of its own rows
else
  train rhio rhio "$OUT/unfaithful.jsonl"
fi

rm -rf "$OUT/adapter"
# The strength was chosen on dev rows, and the figures of the card are those of the adapter that ships (README)
faithgen export --checkpoint "$OUT/rhio" --output "$OUT/adapter" --dtype bfloat16 --alpha 0.5 --results recipes/rhio/results.json
