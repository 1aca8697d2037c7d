#!/bin/sh
# tools/compare: its parts on recorded output, then the whole on the real program with small stores.
set -u
compare=tools/compare
export PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=tools /usr/bin/python3 tests/tools/compare_test.py || exit 1

place=$(mktemp -d /dev/shm/daxkv_compare_test.XXXXXX) || exit 1
trap 'rm -rf "$place"' EXIT
kept=$TEST_TMPDIR/kept/results.jsonl
failures=0

fail() {
  echo "$*; it printed:"
  cat "$TEST_TMPDIR/out" "$TEST_TMPDIR/err"
  failures=$((failures + 1))
}
# take CODE ARGUMENTS...: runs tools/compare with the built program into out and err.
take() {
  code=$1
  shift
  "$compare" "$@" --ycsb benchmarks/ycsb/ycsb --place "$place" --results "$kept" \
    --touch 0 --engines daxkv,floor-serial,null --records 500 --values 100 --threads 1 --rounds 1 \
    --disturbed 1000 >"$TEST_TMPDIR/out" 2>"$TEST_TMPDIR/err"
  got=$?
  [ "$got" -eq "$code" ] || fail "compare $*: exit code $got, expected $code"
}
has() { grep -q -- "$1" "$TEST_TMPDIR/out" || fail "no \"$1\" in the report"; }

for study in throughput beside open space; do take 0 $study; done
has '^## 500 records of 100 B, threads: 1'
has '^| daxkv / floor .*x |'
has '^## Goals'
has '^## Reads beside a writer'
has '^## Time to open'
has '^| MiB, 500 x 100 B '
samples=$(grep -c '"throughput": ' "$kept")
# Another run has nothing left to take.
take 0 throughput
[ "$(grep -c '"throughput": ' "$kept")" -eq "$samples" ] || fail 'samples were taken twice'
[ -s "$TEST_TMPDIR/kept/table.md" ] || fail 'no table.md'
[ -z "$(ls "$place")" ] || fail "left in $place: $(ls "$place")"
take 2 throughput --workloads Z
grep -qF 'no workload "Z"' "$TEST_TMPDIR/err" || fail 'an unknown workload is not named'
exit "$failures"
