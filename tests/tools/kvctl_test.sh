#!/bin/bash
# kvctl from the outside: every command, what it prints, and its exit codes.
set -euo pipefail

readonly KVCTL="$1"
readonly SCRATCH="${TEST_TMPDIR:?}/kvctl"
mkdir -p "${SCRATCH}"
cd "${SCRATCH}"
cases=0

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect CODE TEXT ARGS...: runs kvctl; its exit code, and a text that stdout and stderr hold.
expect() {
  local code="$1" text="$2" got=0
  shift 2
  "${OLDPWD_KVCTL}" "$@" >out 2>err </dev/null || got=$?
  [[ ${got} -eq ${code} ]] || fail "kvctl $*: exit code ${got}, not ${code}: $(head -c 300 out err)"
  [[ -z ${text} ]] || grep -qF -- "${text}" out err || fail "kvctl $*: no '${text}' in: $(head -c 300 out err)"
  if [[ ${code} -ne 0 && $(wc -l <err) -ne 1 ]]; then fail "kvctl $*: not one line: $(head -c 300 err)"; fi
  cases=$((cases + 1))
}

same() {
  cmp "$1" "$2" || fail "$3"
  cases=$((cases + 1))
}

OLDPWD_KVCTL="${OLDPWD}/${KVCTL}"
[[ -x ${OLDPWD_KVCTL} ]] || OLDPWD_KVCTL="${KVCTL}"

# ---- Usage
expect 2 "subcommand" ""
expect 2 "see kvctl --help" frobnicate
expect 2 "not expected: 1 3 (see kvctl cas --help)" cas a 1 3
expect 2 "KEY is required" put
expect 2 "VALUE or --value-file" put key
expect 2 "one of the two" del
expect 2 "both --from and --to" del --from a
expect 2 "one of the two" del --from a --to b c
expect 2 "tsv" load --format csv /dev/null
expect 0 "Exit codes" --help

# ---- No store
expect 3 "no store at ./daxkv.db" get planet
expect 3 "no store at" scan
expect 3 "no store at" check
[[ ! -e daxkv.db ]] || fail "a reading command made a store"

# ---- Records
expect 0 "" put planet Saturn
expect 0 "Saturn" get planet
expect 1 "no such key: moon" get moon
expect 0 "" put empty ""
expect 0 "" get empty
[[ ! -s out ]] || fail "an empty value came back with bytes"
expect 2 "1 to 65536" put "" value
expect 2 "1 to 65536" put "$(head -c 65537 /dev/zero | tr '\0' k)" value
expect 0 "" put "$(head -c 65536 /dev/zero | tr '\0' k)" value
expect 0 "" --escaped put 'a\x00b' 'tab\tnewline\n'
expect 0 "" --escaped get 'a\x00b'
printf 'tab\tnewline\n' >wanted
same out wanted "an escaped value came back different"
expect 2 "bad escape" --escaped put 'a\q' v
head -c 3000000 /dev/urandom >bytes
expect 0 "" put blob --value-file bytes
expect 0 "" get blob
same out bytes "a value from a file came back different"
"${OLDPWD_KVCTL}" put piped --value-file - <bytes || fail "a value from stdin"
expect 0 "" get piped
same out bytes "a value from stdin came back different"
expect 3 "no such file" put key --value-file missing
expect 0 "6" count

# ---- Conditions and batches
expect 0 "" --db cond put lock held --if-absent
expect 1 "the key has a value: lock" --db cond put lock again --if-absent
expect 2 "--expect or --expect-absent" --db cond cas lock --set x
expect 2 "--set or --delete" --db cond cas lock --expect held
expect 2 "one of the two" --db cond cas lock --expect held --expect-absent --set x
expect 1 "another value" --db cond cas lock --expect free --set mine
expect 0 "" --db cond cas lock --expect held --set mine
expect 0 "mine" --db cond get lock
expect 0 "" --db cond cas lock --expect mine --delete
expect 1 "has no value" --db cond cas lock --expect mine --delete
expect 0 "" --db cond cas lock --expect-absent --set ''
printf 'put\ta\t1\nput\tb\\x00\tline\\n\ndel\tlock\ndel\tnone' >changes
expect 0 "did 4 operations" --db cond batch changes
expect 1 "no such key" --db cond get lock
expect 0 "1" --db cond get a
expect 0 "" --db cond --escaped get 'b\x00'
printf 'put\ta\t2\nput\tmissing value\n' >changes
expect 2 "changes, line 2: neither put" --db cond batch changes
printf 'del\ta\nput\t\tempty key\n' >changes
expect 2 "line 2: the key has 0 bytes" --db cond batch changes
expect 0 "1" --db cond get a
expect 3 "no such file" --db cond batch missing
expect 0 "2 records, give or take 0" --db cond estimate
expect 0 "1 records" --db cond estimate --from a --to b
expect 0 "clean" --db cond check

# ---- Scans
expect 0 "" scan --limit 2 --keys-only
printf 'a\\x00b\nblob\n' >wanted
same out wanted "the first two keys"
expect 0 "" scan --from empty --to planet --keys-only
printf 'empty\n%s\npiped\n' "$(head -c 65536 /dev/zero | tr '\0' k)" >wanted
same out wanted "a half-open range"
expect 0 "" scan --prefix pla
printf 'planet\tSaturn\n' >wanted
same out wanted "a prefix"
expect 0 "" scan --limit 0
[[ ! -s out ]] || fail "limit 0 printed something"
expect 2 "" scan --limit -1
# A closed pipe ends it quietly enough, and the store stays whole.
"${OLDPWD_KVCTL}" scan 2>/dev/null | head -c 10 >/dev/null || true
expect 0 "clean" check

# ---- Deletes
expect 0 "" del blob piped
expect 1 "no such key: nothing" del empty nothing
expect 1 "" get empty
expect 0 "deleted 2 records" del --from a --to l
expect 0 "deleted 0 records" del --from a --to l
expect 0 "1" count

# ---- Load, dump
for i in $(seq 5000); do
  printf 'Package: p%s\nVersion: 1:%s-1\nDescription: number %s\n with a second line\n\n' \
    "$((i * 7919 % 5000))" "$((i % 3))" "${i}"
done >stanzas
expect 0 "loaded 5,000 records" --db other load --format debian stanzas
expect 0 "5000" --db other count
expect 0 "" --db other dump dumped
[[ $(wc -l <dumped) -eq 5000 ]] || fail "dump has $(wc -l <dumped) lines"
LC_ALL=C sort -c -t "$(printf '\t')" -k 1,1 dumped || fail "dump is not in key order"
expect 0 "loaded 5,000 records" --db copy load --format tsv dumped
expect 0 "" --db copy dump again
same dumped again "a dump of a loaded dump"
expect 0 "5,000 of keys met before" --db copy load --format tsv dumped
printf 'good\tvalue\nbad line\n' >broken
expect 2 "line 2: no tab" --db copy load --format tsv broken
expect 0 "value" --db copy get good
expect 3 "cannot open" --db copy load --format tsv missing
expect 3 "cannot create" --db copy dump missing/folder/file

# ---- Backups
expect 0 "backed up 5,001 records" --db copy backup saved
expect 0 "restored 5,001 records" --db anew restore saved
expect 0 "" --db copy dump dumped
expect 0 "" --db anew dump again.tsv
same dumped again.tsv "a dump of a restored backup"
expect 0 "clean" --db anew check
expect 3 "something at anew already" --db anew restore saved
"${OLDPWD_KVCTL}" --db copy backup - | "${OLDPWD_KVCTL}" --db piped restore --fixed 64M - >out ||
  fail "a backup through a pipe"
expect 0 "5001" --db piped count
expect 0 "fixed" --db piped info
head -c 30000 saved >cut
expect 4 "cut short: it ends at byte 30000" --db none restore cut
cat saved cut >longer
expect 4 "something follows" --db none restore longer
[[ ! -e none && ! -e none.restoring ]] || fail "a restore that failed left something"
expect 3 "cannot open" --db none restore missing
expect 3 "no store at" --db none backup saved
expect 3 "cannot create" --db copy backup missing/folder/file
expect 2 "not a size" --db none restore --fixed lots saved

# ---- Keyspaces
expect 0 "" --db spaces put city Paris
expect 0 "" --db spaces keyspace create moons
expect 0 "" --db spaces --escaped keyspace create 'a\tb'
expect 3 "there is a keyspace" --db spaces keyspace create moons
expect 0 "moons" --db spaces keyspace list
expect 0 "" --db spaces --keyspace moons put city none
expect 0 "" --db spaces --keyspace moons put Titan Saturn
expect 0 "Saturn" --db spaces --keyspace moons get Titan
expect 0 "Paris" --db spaces get city
expect 1 "no such key" --db spaces get Titan
expect 0 "2" --db spaces --keyspace moons count
printf 'put\tRhea\tSaturn\ndel\tcity\n' >moves
expect 0 "did 2 operations" --db spaces --keyspace moons batch moves
"${OLDPWD_KVCTL}" --db spaces --keyspace moons scan >out
printf 'Rhea\tSaturn\nTitan\tSaturn\n' >expected
same out expected "a scan of a keyspace"
expect 0 "" --db spaces --keyspace moons dump moons.tsv
same moons.tsv expected "a dump of a keyspace"
expect 0 "loaded 2" --db spaces --escaped --keyspace 'a\tb' load --format tsv moons.tsv
expect 0 "" --db spaces --escaped --keyspace 'a\tb' cas Rhea --expect Saturn --set Uranus
expect 0 "moons: 2 records" --db spaces info
expect 0 '"keyspaces"' --db spaces info --json
expect 0 "clean" --db spaces check
expect 0 "" --db spaces keyspace drop moons
expect 1 "no keyspace" --db spaces --keyspace moons get Titan
expect 1 "no keyspace" --db spaces keyspace drop moons
expect 2 "name has 0 bytes" --db spaces keyspace create ''
expect 2 "" --db spaces keyspace
expect 0 "clean" --db spaces check

# ---- Administration
expect 0 "clean" --db copy check
expect 0 '"records": 5001' --db copy info --json
expect 0 "promise" --db copy info
expect 0 "deleted" --db copy del --from '!' --to '~'
expect 0 "blocks:" --db copy compact
expect 0 "order of their keys" --db copy compact --order-by-key
expect 0 "clean" --db copy check
expect 0 "" --db fixed create --fixed 64M
expect 0 "fixed" --db fixed info
expect 0 "" --db fixed put a b
expect 3 "" --db fixed create
expect 2 "not a size" --db bad create --fixed lots
mkdir -p foreign && touch foreign/file
expect 3 "foreign" --db foreign put a b
expect 3 "" --db foreign/file get a

# ---- Damage
expect 0 "" --db damaged put victim "$(head -c 200 /dev/zero | tr '\0' v)"
part=$(grep -laF victimvvvv damaged/parts/*)
offset=$(grep -abo victimvvvv "${part}" | head -n 1 | cut -d: -f1)
printf 'X' | dd of="${part}" bs=1 seek="$((offset + 50))" conv=notrunc status=none
expect 4 "offset" --db damaged get victim
expect 4 "faults" --db damaged check
expect 4 "victim" --db damaged scrub
expect 0 "" --db damaged put other value
expect 0 "value" --db damaged get other
expect 4 'key "victim"' --db damaged check --repair
expect 1 "" --db damaged get victim
expect 0 "value" --db damaged get other
expect 0 "nothing to repair" --db damaged check --repair
expect 0 "checksums of 1 record" --db damaged scrub

# ---- One process at a time
mkfifo pipe
"${OLDPWD_KVCTL}" --db other load --format tsv - <pipe >/dev/null &
loader=$!
exec 3>pipe
# The lock names its holder.
for _ in $(seq 600); do
  [[ $(cat other/LOCK) != "${loader}" ]] || break
  sleep 0.05
done
expect 3 "${loader}" --db other get p1
exec 3>&-
wait "${loader}" || fail "the load that waited"

echo "${cases} checks passed"
