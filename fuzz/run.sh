#!/usr/bin/env bash
# Fuzzes a target, or all of them one after the other, for a number of executions:
#     fuzz/run.sh TARGET|all [EXECUTIONS] [SECONDS]
# Needs a compiler for C++ and cargo-fuzz (cargo install cargo-fuzz). What was found lies in fuzz/artifacts, what
# was done is a line in fuzz/done.tsv: target, executions, seconds, inputs kept.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?a target, or all}
runs=${2:-10000000}
seconds=${3:-0}
targets=$target
if [ "$target" = all ]; then
    targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)
fi
# without a sanitizer: the code of the workspace is safe, and memory and time are watched by fuzz/src/lib.rs
export RUSTC_WRAPPER="$PWD/fuzz/rustc.sh"
cargo fuzz build -s none
for target in $targets; do
    mkdir -p "fuzz/grown/$target"
    log=$(mktemp)
    start=$SECONDS
    RAYON_NUM_THREADS=1 cargo fuzz run -s none "$target" "fuzz/grown/$target" "fuzz/corpus/$target" -- \
        -runs="$runs" -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        >"$log" 2>&1 || { tail -n 40 "$log"; exit 1; }
    done_runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%s\t%s\t%s\t%s\n' "$target" "$done_runs" $((SECONDS - start)) "$(ls "fuzz/grown/$target" | wc -l)" |
        tee -a fuzz/done.tsv
done
