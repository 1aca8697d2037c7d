#!/bin/sh
# The command itself: exit codes, where its output goes, and its messages.
set -u
ycsb=benchmarks/ycsb/ycsb
failures=0

# expect CODE TEXT STREAM ARGUMENTS...: the exit code, and a text on the stream (out or err).
expect() {
  code=$1 text=$2 stream=$3
  shift 3
  "$ycsb" "$@" >"$TEST_TMPDIR/out" 2>"$TEST_TMPDIR/err"
  got=$?
  if [ "$got" -ne "$code" ] || ! grep -qF -- "$text" "$TEST_TMPDIR/$stream"; then
    echo "ycsb $*: exit code $got, expected $code with \"$text\" on std$stream; it printed:"
    cat "$TEST_TMPDIR/out" "$TEST_TMPDIR/err"
    failures=$((failures + 1))
  fi
}

a=benchmarks/workloads/workloada
expect 2 'ycsb load|run|delete ENGINE' err
expect 0 'ycsb load|run|delete ENGINE' out --help
expect 0 'ycsb load|run|delete ENGINE' out run --help
expect 2 'unknown engine "nosuch": this program has' err run nosuch -P $a
expect 2 '-p: unknown property "recordcoutn"; did you mean "recordcount"?' err \
  run null -P $a -p recordcoutn=5
expect 2 '-threads: threadcount: "none" is not accepted' err run null -P $a -threads none
expect 3 'cannot read the property file /no/such/file' err run null -P /no/such/file
expect 0 '[INSERT], Return=OK, 1000' out load null -P $a
expect 0 '[OVERALL], Throughput(ops/sec), ' out run null -P $a -threads 2
expect 0 '[NULL], Promise, none' out run null -P $a
expect 4 'has a wrong value in field' err run null -P $a -p dataintegrity=true
expect 3 'cannot write the report to /no/such/dir/report' err \
  run null -P $a -p exportfile=/no/such/dir/report
"$ycsb" run null -P $a -p "exportfile=$TEST_TMPDIR/report" >"$TEST_TMPDIR/out"
if [ -s "$TEST_TMPDIR/out" ] || ! grep -q '^\[READ\], 99thPercentileLatency(us), ' \
    "$TEST_TMPDIR/report"; then
  echo "exportfile: the report is not in the file alone"
  failures=$((failures + 1))
fi
for letter in a b c d e f; do
  expect 0 '[OVERALL], RunTime(ms), ' out run null -P "benchmarks/workloads/workload$letter"
done
exit "$failures"
