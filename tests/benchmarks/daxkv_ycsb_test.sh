#!/bin/sh
# The workloads A..F end to end on daxkv, with every value verified, on a disk and in memory.
set -u
ycsb=benchmarks/ycsb/ycsb
memory=$(mktemp -d /dev/shm/daxkv_ycsb_test.XXXXXX) || exit 1
trap 'rm -rf "$memory"' EXIT
failures=0

fail() {
  echo "$*; it printed:"
  cat "$TEST_TMPDIR/out" "$TEST_TMPDIR/err"
  failures=$((failures + 1))
}

# expect CODE ARGUMENTS...: runs ycsb into out and err.
expect() {
  code=$1
  shift
  "$ycsb" "$@" >"$TEST_TMPDIR/out" 2>"$TEST_TMPDIR/err"
  got=$?
  [ "$got" -eq "$code" ] || fail "ycsb $*: exit code $got, expected $code"
}

# has TEXT: the report has the text.
has() { grep -qF -- "$1" "$TEST_TMPDIR/out" || fail "no \"$1\" in the report"; }
hasnot() { ! grep -qF -- "$1" "$TEST_TMPDIR/out" || fail "\"$1\" in the report"; }

for place in "$TEST_TMPDIR" "$memory"; do
  for letter in a b c d e f; do
    workload=benchmarks/workloads/workload$letter
    store=$place/store_$letter
    expect 0 load daxkv -P $workload -p "daxkv.path=$store" -p dataintegrity=true -threads 2
    has '[INSERT], Return=OK, 1000'
    has '[DAXKV], Records, 1000'
    for read in copy pin; do
      expect 0 run daxkv -P $workload -p "daxkv.path=$store" -p dataintegrity=true -threads 2 \
        -p daxkv.read=$read -p seed=$$
      has '[VERIFY], Return=OK, '
      hasnot 'Return=NOT_FOUND'
      hasnot 'Return=UNEXPECTED_STATE'
    done
  done
done
has '[DAXKV], MediaClass, volatile'

# Groups, a fixed pool, and values that do not belong to their keys.
expect 0 load daxkv -P benchmarks/workloads/workloada -p "daxkv.path=$memory/groups" \
  -p daxkv.loadgroup=64 -p daxkv.fixedsize=67108864
has '[DAXKV], LoadGroup(records), 64'
has '[DAXKV], Records, 1000'
expect 4 run daxkv -P benchmarks/workloads/workloadc -p "daxkv.path=$memory/groups" \
  -p dataintegrity=true
has '[VERIFY], Return=UNEXPECTED_STATE, 1000'

expect 3 run daxkv -P benchmarks/workloads/workloada -p "daxkv.path=$memory/none"
grep -qF 'no store at' "$TEST_TMPDIR/err" || fail 'a missing store is not named'
exit "$failures"
