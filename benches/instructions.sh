#!/usr/bin/env bash
# Counts the instructions of each micro benchmark under callgrind and compares them with benches/instructions.txt:
# more than 2 % above it fails. Unlike time, the count does not depend on what else the machine does.
#
#   benches/instructions.sh [--update] [NAME...]
#
# Valgrind has no SHA instructions: what hashes (keys, sessions) counts more than it costs.
# Another compiler or processor counts differently: the file says which it was made with; --update makes it anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tolerance=2
baseline=benches/instructions.txt
update=
if [[ ${1-} == --update ]]; then
    update=1
    shift
fi
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }

micro=${MICRO:-}
if [[ -z $micro ]]; then
    cargo build --quiet --release -p mcp-gateway-benches --bin micro
    micro=${CARGO_TARGET_DIR:-target}/release/micro
fi
(($#)) || mapfile -t names < <("$micro")
(($#)) && names=("$@")

# counted NAME ITERATIONS: instructions of the whole run.
counted() {
    local output
    output=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$micro" "$1" "$2" 2>&1) ||
        { echo "$output" >&2; return 1; }
    awk '/Collected : / { print $NF; found = 1 } END { exit !found }' <<<"$output"
}

new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
    echo "# Instructions per operation, counted by callgrind. Made by benches/instructions.sh --update with"
    echo "# $(rustc --version); $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)"
} >"$new"
if [[ ! -f $baseline && -z $update ]]; then
    echo "$baseline is missing: make it with --update" >&2
    exit 1
fi

failed=0
for name in "${names[@]}"; do
    # What starting and the first, cold operations cost is in both.
    few=$(counted "$name" 20)
    many=$(counted "$name" 120)
    each=$(((many - few) / 100))
    echo "$name $each" >>"$new"
    before=
    [[ -f $baseline ]] && before=$(awk -v name="$name" '$1 == name { print $2 }' "$baseline")
    if [[ -z $before ]]; then
        printf '%-20s %10d  new\n' "$name" "$each"
        [[ -n $update ]] || failed=1
        continue
    fi
    verdict=ok
    if ((each * 100 > before * (100 + tolerance))); then
        verdict="more than $tolerance % above the baseline"
        [[ -n $update ]] || failed=1
    elif ((each * 100 < before * (100 - tolerance))); then
        verdict="better: run with --update"
    fi
    printf '%-20s %10d  before %10d  %+d  %s\n' "$name" "$each" "$before" "$((each - before))" "$verdict"
done
if [[ -n $update ]]; then
    # Names that were not asked for keep their numbers.
    if [[ -f $baseline ]]; then
        awk 'NR == FNR { seen[$1] = 1; next } !/^#/ && !($1 in seen)' "$new" "$baseline" >"$new.kept"
        cat "$new.kept" >>"$new"
        rm "$new.kept"
    fi
    cp "$new" "$baseline"
fi
exit "$failed"
