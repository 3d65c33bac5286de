#!/usr/bin/env bash
# A day's coding on any folder: git, package installs, builds, tests, SQLite, copying, removing.
#
# usage: coding_day.sh FOLDER INPUTS REPORT.json
#   FOLDER  where to work; made if missing, must be empty. A mount, or a local folder beside it.
#   INPUTS  what benches/coding/make_inputs.py made (the folder of one size).
#   REPORT  takes {"folder":…, "steps":[{"name":…, "seconds":…}, …]}.
# Every step's result is checked; the first that is wrong ends the script with its output.
# Only steps are timed, not their checks. Needs no network. The program $AFTER_STEP, if set, is called with the name of
# each step that was made.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,10p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd)
inputs=$(cd "$2" && pwd)
report=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
timings=$scratch/timings
: >"$timings"

readonly STEP_TIMEOUT_S=${STEP_TIMEOUT_S:-1200}
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$scratch/gitconfig CI=1 NO_COLOR=1
export CARGO_TERM_COLOR=never
git config --file "$GIT_CONFIG_GLOBAL" user.name "Coding Day"
git config --file "$GIT_CONFIG_GLOBAL" user.email coding-day@example.invalid
git config --file "$GIT_CONFIG_GLOBAL" advice.detachedHead false
git config --file "$GIT_CONFIG_GLOBAL" gc.auto 0
git config --file "$GIT_CONFIG_GLOBAL" safe.directory '*'

fail() {
    echo "coding_day: $*" >&2
    exit 1
}

expected() { # PATH.IN.MANIFEST
    python3 -c 'import json,sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."): value = value[key]
print(value)' "$inputs/manifest.json" "$1"
}

step() { # NAME COMMAND...
    local name=$1 began ended
    shift
    began=$(date +%s%N)
    if ! timeout --foreground "$STEP_TIMEOUT_S" "$@" >"$scratch/$name.log" 2>&1 </dev/null; then
        tail -n 40 "$scratch/$name.log" >&2
        fail "step $name failed: $*"
    fi
    ended=$(date +%s%N)
    printf '%s\t%s\n' "$name" $((ended - began)) >>"$timings"
    [ -z "${AFTER_STEP:-}" ] || "$AFTER_STEP" "$name"
}

same_tree() { # WHAT A B [TREESUM OPTIONS...]
    local what=$1 a=$2 b=$3
    shift 3
    python3 "$here/../support/treesum.py" --portable --list "$scratch/a" "$@" "$a" >/dev/null
    python3 "$here/../support/treesum.py" --portable --list "$scratch/b" "$@" "$b" >/dev/null
    diff "$scratch/a" "$scratch/b" | head -20 >"$scratch/difference" || true
    if [ -s "$scratch/difference" ]; then
        cat "$scratch/difference" >&2
        fail "$what: the trees differ"
    fi
}

clean() { # FOLDER: nothing changed, by content and not by the cached times
    git -C "$1" update-index -q --really-refresh || fail "$1: files differ from the index"
    [ -z "$(git -C "$1" status --porcelain)" ] || fail "$1: git status is not clean"
}

count_files() {
    find "$1" ! -type d | wc -l
}

repository() {
    cd "$work"
    # file:// makes git pack and unpack as it does over a network, instead of linking files.
    step git_clone git clone -q "file://$inputs/repo" repo
    [ "$(git -C repo rev-parse HEAD)" = "$(expected repo.head)" ] || fail "clone: wrong HEAD"
    [ "$(git -C repo ls-files | wc -l)" = "$(expected repo.files)" ] || fail "clone: wrong file count"
    step git_fsck git -C repo fsck --full --strict
    ! grep -qE 'error|missing|corrupt' "$scratch/git_fsck.log" || fail "git fsck complains"
    step git_status_first git -C repo status --porcelain
    step git_status_warm git -C repo status --porcelain
    [ ! -s "$scratch/git_status_warm.log" ] || fail "git status is not empty after the clone"
    step git_checkout_far git -C repo checkout -q "$(expected repo.far)"
    clean repo
    step git_checkout_back git -C repo checkout -q main
    clean repo
    step git_checkout_side git -C repo checkout -q -b side origin/side
    clean repo
    step git_checkout_main git -C repo checkout -q main
    same_tree "checkout" repo "$inputs/repo" --skip .git

    while IFS= read -r file; do
        printf '\n/* edited */\n' >>"repo/$file"
    done < <(git -C repo ls-files | grep '\.js$' | head -50)
    mkdir repo/new
    for i in $(seq 100); do echo "line $i" >"repo/new/file-$i.txt"; done
    step git_add git -C repo add -A
    step git_commit git -C repo commit -q -m "A day's work"
    step git_gc git -C repo gc -q
    git -C repo fsck --full >"$scratch/fsck" 2>&1 || { cat "$scratch/fsck" >&2; fail "git fsck after gc"; }
    clean repo
}

run_checks() { # PREFIX: build, type check and tests of the application in $work/app
    step "$1_vite_build" node_modules/.bin/vite build
    same_tree "vite build" dist "$inputs/reference/dist"
    step "$1_tsc" node_modules/.bin/tsc --noEmit
    step "$1_vitest" node_modules/.bin/vitest run
    grep -q '2 passed' "$scratch/$1_vitest.log" || fail "vitest did not run its 2 tests"
}

application() {
    cp -r "$inputs/app" "$work/app"
    cd "$work/app"
    step npm_ci npm ci --offline --ignore-scripts --no-audit --no-fund --cache "$inputs/npm-cache"
    [ "$(count_files node_modules)" = "$(expected app.npm_files)" ] || fail "npm ci: wrong file count"
    run_checks npm
    step find_stat find node_modules -type f -size +1000000c
    step rm_node_modules rm -rf node_modules
    [ ! -e node_modules ] || fail "node_modules is still there"

    export HOME_BEFORE=$HOME HOME=$inputs/bun-home BUN_INSTALL=$inputs/bun-home
    step bun_install "$inputs/bin/bun" install --frozen-lockfile --ignore-scripts --backend copyfile \
        --cache-dir "$inputs/bun-cache"
    export HOME=$HOME_BEFORE
    unset BUN_INSTALL
    [ "$(count_files node_modules)" = "$(expected app.bun_files)" ] || fail "bun install: wrong file count"
    rm -rf dist
    run_checks bun
}

crate() {
    cp -r "$inputs/crate" "$work/crate"
    cd "$work/crate"
    export CARGO_TARGET_DIR=$work/crate/target
    step cargo_build cargo build --offline --locked --quiet
    [ "$(target/debug/coding-day-crate)" = "$(expected crate.says)" ] || fail "the built program is wrong"
    step cargo_build_again cargo build --offline --locked
    ! grep -q Compiling "$scratch/cargo_build_again.log" || fail "cargo built again what was fresh"
    step cargo_test cargo test --offline --locked --quiet
    unset CARGO_TARGET_DIR
}

database() {
    mkdir "$work/database"
    cd "$work/database"
    step sqlite_two_writers python3 "$here/sqlite_two_writers.py" day.db "${SQLITE_TRANSACTIONS:-250}"
}

copies() {
    cd "$work"
    step cp_r cp -r repo copy
    same_tree "cp -r" repo copy
    step tar_c tar cf day.tar -C copy .
    mkdir untarred
    step tar_x tar xf day.tar -C untarred
    same_tree "tar x" copy untarred
    step rm_copy rm -rf copy
    [ ! -e copy ] || fail "the copy is still there"
}

[ -z "$(ls -A "$work" | grep -v '^lost+found$' || true)" ] || fail "$work is not empty"
repository
application
crate
database
copies
cd /
step sync sync -f "$work"

python3 - "$timings" "$work" "$report" <<'PY'
import json, sys
steps = [line.rstrip("\n").split("\t") for line in open(sys.argv[1])]
report = {"folder": sys.argv[2], "steps": [{"name": n, "seconds": round(int(ns) / 1e9, 3)} for n, ns in steps]}
with open(sys.argv[3], "w") as out:
    json.dump(report, out, indent=1)
    out.write("\n")
print(", ".join(f"{s['name']} {s['seconds']:.2f}" for s in report["steps"]))
PY
