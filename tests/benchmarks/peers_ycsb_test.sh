#!/bin/sh
# The workloads on each of the peers that this build has, with every value verified; and what is said
# of those that it has not. The floors likewise.
set -u
ycsb=benchmarks/ycsb/ycsb
memory=$(mktemp -d /dev/shm/daxkv_peers_test.XXXXXX) || exit 1
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
has() { grep -qF -- "$1" "$TEST_TMPDIR/out" || fail "no \"$1\" in the report"; }
hasnot() { ! grep -qF -- "$1" "$TEST_TMPDIR/out" || fail "\"$1\" in the report"; }
says() { grep -qF -- "$1" "$TEST_TMPDIR/err" || fail "no \"$1\" among the messages"; }
workload() { echo "benchmarks/workloads/workload$1"; }

# check ENGINE PROPERTY THREADS LETTERS: all of these end to end, after a missing store.
check() {
  engine=$1 store="$2=$memory/$1" threads=$3 letters=$4
  expect 3 run "$engine" -P "$(workload a)" -p "$store"
  expect 0 load "$engine" -P "$(workload a)" -p "$store" -p dataintegrity=true -threads "$threads"
  has '[INSERT], Return=OK, 1000'
  has '], Promise, '
  for letter in $letters; do
    expect 0 run "$engine" -P "$(workload "$letter")" -p "$store" -p dataintegrity=true \
      -threads "$threads"
    has '[VERIFY], Return=OK, '
    hasnot 'Return=NOT_FOUND'
    hasnot 'Return=UNEXPECTED_STATE'
    has '[PROCESS], RssAnon(bytes), '
  done
  expect 0 run "$engine" -P "$(workload c)" -p "$store" -p dataintegrity=true -p multiget=16
  has '[READ], Return=OK, 1000'
  has '[VERIFY], Return=OK, 1000'
}

# Every second record goes; those left are right, those gone are gone.
check_deletes() {
  engine=$1 store="$2=$memory/$1"
  expect 0 delete "$engine" -P "$(workload a)" -p "$store" -p insertcount=500
  has '[DELETE], Return=OK, 500'
  expect 0 run "$engine" -P "$(workload c)" -p "$store" -p dataintegrity=true -p insertstart=500
  has '[READ], Return=OK, 1000'
  expect 0 run "$engine" -P "$(workload c)" -p "$store" -p recordcount=500
  has '[READ], Return=NOT_FOUND, 1000'
  says 'most records were not found'
}

"$ycsb" --help >"$TEST_TMPDIR/help"
for peer in leveldb lmdb pmemkv rocksdb wiredtiger; do
  if grep -q "^  $peer  *not in this program: .*tools/setup --peers" "$TEST_TMPDIR/help"; then
    echo "$peer: not in this build"
    expect 2 load $peer -P "$(workload a)"
    says "this program has no engine \"$peer\": "
    says 'run tools/setup --peers'
    continue
  fi
  grep -q "^  $peer  " "$TEST_TMPDIR/help" || fail "$peer: not in the usage text"
  letters='a b c d e f'
  [ $peer != pmemkv ] || letters='a b c d f'
  check $peer $peer.path 2 "$letters"
  check_deletes $peer $peer.path
done

# The floors keep no order, and updates of one record at a time may tear it.
for floor in floor-serial floor-parallel; do
  check $floor floor.path 1 'a b c d f'
  expect 0 load $floor -P "$(workload a)" -p "floor.path=$memory/streaming" \
    -p floor.stores=streaming -p dataintegrity=true
  expect 0 run $floor -P "$(workload a)" -p "floor.path=$memory/streaming" \
    -p floor.stores=streaming -p dataintegrity=true
  has '[VERIFY], Return=OK, '
  hasnot 'Return=UNEXPECTED_STATE'
done
expect 3 load floor-serial -P "$(workload a)" -p "floor.path=$memory/small" -p floor.capacity=10
says 'give the load more with -p floor.capacity=RECORDS'
head -c 100000 /dev/zero >"$memory/zeros"
expect 4 run floor-serial -P "$(workload c)" -p "floor.path=$memory/zeros"
says 'is no store of a floor'
exit "$failures"
