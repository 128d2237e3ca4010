#!/usr/bin/env bash
# The GPU column of the table of targets: random weights in the shape of Llama-3.1-8B, bf16, about 10 minutes on an H100.
#
#     benchmarks/gpu.sh                      # all of it
#     benchmarks/gpu.sh decode prefill       # these parts alone
#
# Needs 80 GB of GPU memory and `make demo` before (the packaged tokenizer). Tables and JSON lines go to benchmarks/gpu.log
# (or $LOG) too. A part that fails does not stop the others; each says how long it took. `decode` compiles three steps,
# `long` two and `memory` none: a minute or so each, less if Inductor has its cache.
cd "$(dirname "$0")/.." || exit
PATH="$PWD/.venv/bin:$PATH"
LOG=${LOG:-benchmarks/gpu.log}
FAILED=0

part() { # name, then the command
    local name=$1 started=$SECONDS
    shift
    echo "=== $name: $*"
    "$@" || { echo "=== $name failed"; FAILED=1; }
    echo "=== $name took $((SECONDS - started)) s"
}

run() {
    case $1 in
    decode) part decode python benchmarks/decode.py --shape 8b --tokens 4000 --new 48 --compiled \
        --ways pair heads guidance "pair compiled" "heads compiled" ;;
    prefill) part prefill python benchmarks/prefill.py --shape 8b --tokens 4000 32000 --heads 16 --kept-mib 8192 --no-eager ;;
    naive) part naive python benchmarks/prefill.py --shape 8b --tokens 3000 --heads 16 --kept-mib 8192 --repeats 3 ;;
    memory) part memory python benchmarks/memory.py --shape 8b --tokens 32000 --repeats 3 --no-guidance ;;
    end) part end python benchmarks/end_to_end.py --shape 8b --tokens 32000 --keep 2 --new 200 --kept-mib 8192 --repeats 3 ;;
    long) part long python benchmarks/decode.py --shape 8b --tokens 32000 --new 48 --compiled --ways "pair compiled" ;;
    throughput) part throughput python benchmarks/end_to_end.py --shape 8b --tokens 2000 --keep 2 --new 64 \
        --questions 64 --batch-size 64 --repeats 1 ;;
    *) echo "no part $1; there are: decode prefill naive memory end long throughput" >&2; return 2 ;;
    esac
}

[ $# -gt 0 ] || set -- prefill memory decode end long throughput naive
{
    for name in "$@"; do run "$name" || FAILED=1; done
    [ "$FAILED" = 0 ]
} 2>&1 | tee -a "$LOG"
exit "${PIPESTATUS[0]}"
