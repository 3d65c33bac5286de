#!/usr/bin/env bash
# npm, pnpm, bun and cargo with all they keep on one file system: caches, stores, links between them, and what they build.
#
# usage: package_managers.sh FOLDER INPUTS LISTING
#   FOLDER   an empty folder on the file system in question
#   INPUTS   what benches/coding/make_inputs.py made, with its stage pnpm
#   LISTING  takes a description of everything that was installed and built, without times and owners: to be compared
# Needs no network, if cargo's home holds the crate's dependencies. The first thing that is wrong ends it.
set -euo pipefail

[ $# -eq 3 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
work=$(cd "$1" && pwd)
inputs=$(cd "$2" && pwd)
listing=$3
here=$(cd "$(dirname "$0")" && pwd)
readonly HOME_BEFORE=$HOME
export CI=1 NO_COLOR=1 CARGO_TERM_COLOR=never HOME=$work/home
mkdir "$HOME"
: >"$listing"

fail() {
    echo "package_managers: $*" >&2
    exit 1
}

describe() { # WHAT FOLDER
    echo "== $1" >>"$listing"
    python3 "$here/../support/treesum.py" --portable --list "$work/list" "$2" >/dev/null
    # Which files are one file is for each case to look at. pnpm writes the folder's own name into its starters, and
    # bun's links lead into it.
    sed -E -e 's/ is=[^ ]*//' -e "s#$work#FOLDER#g" -e 's#^((.*/)?\.bin/[^ ]+ file [0-7]+) .*#\1#' "$work/list" >>"$listing"
}

names_per_file() { # FOLDER: how many files in it have further names
    find "$1" -type f -links +1 | wc -l
}

application() { # NAME: a fresh copy to install into
    rm -rf "${work:?}/$1"
    cp -r "$inputs/app" "$work/$1"
    cd "$work/$1"
}

builds() { # WHAT: the application, as it is installed now, builds to the same files as it did on the local disk
    node_modules/.bin/vite build >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; fail "$1: vite build failed"; }
    # Maps name the folders that sources come from, and those are each package manager's own.
    diff -rq --exclude='*.map' dist "$inputs/reference/dist" >&2 || fail "$1: vite built something else"
}

with_npm() {
    cp -r "$inputs/npm-cache" "$work/npm-cache"
    local npm=(npm --offline --no-audit --no-fund --cache "$work/npm-cache")
    application npm
    "${npm[@]}" ci --silent --ignore-scripts >/dev/null
    describe "npm ci" node_modules
    builds "npm ci"
    # A package of our own: packed, installed from the archive, removed again.
    mkdir "$work/own"
    printf '{"name":"own","version":"1.2.3","main":"main.js","bin":{"own":"main.js"}}' >"$work/own/package.json"
    printf '#!/usr/bin/env node\nconsole.log("own", require("os").EOL.length)\n' >"$work/own/main.js"
    (cd "$work/own" && "${npm[@]}" pack --silent >/dev/null)
    "${npm[@]}" install --silent --ignore-scripts "$work/own/own-1.2.3.tgz" >/dev/null
    [ "$(node_modules/.bin/own)" = "own 1" ] || fail "npm: the installed program is wrong"
    "${npm[@]}" uninstall own >/dev/null
    [ ! -e node_modules/own ] && [ ! -e node_modules/.bin/own ] || fail "npm uninstall left something"
    "${npm[@]}" ls --all >/dev/null || fail "npm ls finds the tree incomplete"
    "${npm[@]}" cache verify >"$work/verify.log"
    grep -q 'Content verified' "$work/verify.log" || fail "npm cache verify: $(cat "$work/verify.log")"
    ! grep -qE 'Corrupted|Missing content' "$work/verify.log" || fail "the cache is damaged: $(cat "$work/verify.log")"
    rm -rf "$work/npm-cache"
}

with_pnpm() {
    cp -r "$inputs/pnpm/store" "$work/pnpm-store"
    local pnpm=(node "$inputs/pnpm/package/bin/pnpm.cjs") method linked
    export npm_config_store_dir=$work/pnpm-store
    for method in hardlink copy clone-or-copy auto; do
        application "pnpm-$method"
        cp "$inputs/pnpm/pnpm-lock.yaml" .
        "${pnpm[@]}" install --offline --frozen-lockfile --ignore-scripts \
            --config.package-import-method=$method >"$work/pnpm.log" 2>&1 || { cat "$work/pnpm.log" >&2; fail "pnpm, $method"; }
        linked=$(names_per_file node_modules/.pnpm)
        case $method in
            hardlink | auto) [ "$linked" -gt 1000 ] || fail "pnpm, $method: only $linked files are links into the store" ;;
            *) [ "$linked" = 0 ] || fail "pnpm, $method: $linked files are links into the store" ;;
        esac
        rm -f node_modules/.modules.yaml node_modules/.pnpm-workspace-state*.json
        describe "pnpm $method" node_modules
        [ $method != hardlink ] || builds "pnpm"
    done
    # A file's name in the store is the checksum of what it held at first.
    python3 - "$work"/pnpm-store/v*/files <<'PY'
import hashlib, os, sys
for base, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(base, name), "rb") as file:
            if hashlib.sha512(file.read()).hexdigest() != os.path.basename(base) + name.removesuffix("-exec"):
                sys.exit(f"package_managers: {base}/{name} in pnpm's store was changed")
PY
    unset npm_config_store_dir
    rm -rf "$work"/pnpm-*
}

with_bun() {
    cp -r "$inputs/bun-cache" "$work/bun-cache"
    local backend linked
    for backend in hardlink copyfile symlink clonefile; do
        application "bun-$backend"
        BUN_INSTALL=$HOME "$inputs/bin/bun" install --frozen-lockfile --ignore-scripts --backend $backend \
            --cache-dir "$work/bun-cache" >"$work/bun.log" 2>&1 || { cat "$work/bun.log" >&2; fail "bun, $backend"; }
        linked=$(names_per_file node_modules)
        [ $backend != hardlink ] || [ "$linked" -gt 1000 ] || fail "bun, $backend: only $linked files are links"
        # Through its links, where it makes links into its cache.
        rm -rf "$work/seen"
        cp -rL node_modules "$work/seen"
        describe "bun $backend" "$work/seen"
        [ $backend != hardlink ] || builds "bun"
    done
    [ "$("$inputs/bin/bun" -e 'console.log(6 * 7)')" = 42 ] || fail "bun does not run"
    rm -rf "$work"/bun-* "$work/seen"
}

with_cargo() {
    cp -r "$inputs/crate" "$work/crate"
    cd "$work/crate"
    local cargo_home
    cargo_home=${CARGO_HOME:-$HOME_BEFORE/.cargo}
    export RUSTUP_HOME=${RUSTUP_HOME:-$HOME_BEFORE/.rustup}
    # The inputs may have been made with another home of cargo's.
    CARGO_HOME=$cargo_home cargo fetch --locked --quiet
    # The sources come with the crate from here on.
    mkdir .cargo
    CARGO_HOME=$cargo_home cargo vendor --offline --locked 2>"$work/cargo.log" >"$work/config.toml" ||
        { cat "$work/cargo.log" >&2; fail "cargo vendor"; }
    mv "$work/config.toml" .cargo/
    export CARGO_HOME=$work/cargo-home CARGO_TARGET_DIR=$work/crate/target
    mkdir "$CARGO_HOME"
    describe "cargo vendor" vendor
    cargo build --offline --locked --quiet
    [ "$(target/debug/coding-day-crate)" = "sum 5050, seven hex 7" ] || fail "cargo: the built program is wrong"
    # The program and the file it was linked to are one file.
    [ "$(stat -c %h target/debug/coding-day-crate)" -gt 1 ] || fail "cargo copied instead of linking"
    cargo build --offline --locked >"$work/cargo.log" 2>&1
    ! grep -q Compiling "$work/cargo.log" || fail "cargo built again what was fresh: $(cat "$work/cargo.log")"
    sed -i 's/sum {}/SUM {}/' src/main.rs
    cargo build --offline --locked >"$work/cargo.log" 2>&1
    [ "$(grep -c Compiling "$work/cargo.log")" = 1 ] || fail "cargo did not build what changed: $(cat "$work/cargo.log")"
    [ "$(target/debug/coding-day-crate)" = "SUM 5050, seven hex 7" ] || fail "cargo: the program is the old one"
    cargo test --offline --locked --quiet >/dev/null
    cargo clean --quiet
    [ ! -e target ] || fail "cargo clean left something"
}

with_npm
with_pnpm
with_bun
with_cargo
