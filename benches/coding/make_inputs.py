#!/usr/bin/env python3
"""Makes the inputs of the coding workload under one folder, once.

Owns the command line and the order of the stages. A stage that is finished leaves
a marker holding the digest of its recipe, so that a second run does nothing, an
interrupted run goes on where it stopped, and a changed recipe is made again. The
stages themselves live in the *_input.py files beside this one.

Makes: repo/ (git), app/ (Vite, React, TypeScript), crate/ (Rust), bin/bun, the
package managers' caches that let installs run without a network, and manifest.json
with what to expect of each. Only when asked for, because the workload itself does
without: pnpm/ (the program, a lock file, a store) and git/ (git's sources, built).
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True  # nothing is left beside the sources

import app_input  # noqa: E402
import crate_input  # noqa: E402
import git_input  # noqa: E402
import pnpm_input  # noqa: E402
import repo_input  # noqa: E402
from stages import Stages  # noqa: E402


def default_folder():
    given = os.environ.get("WELDRFS_INPUTS")
    if given:
        return Path(given)
    return Path(__file__).resolve().parents[2] / "target" / "inputs"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=default_folder(),
                        help="folder for the inputs; a folder per size is made in it")
    parser.add_argument("--size", choices=["small", "full"], default="small",
                        help="small: for every test run; full: for measuring (default: small)")
    parser.add_argument("--only", action="append", choices=["repo", "app", "crate", "pnpm", "git"],
                        help="make only this stage (may be repeated)")
    args = parser.parse_args()

    out = (args.out / args.size).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with Stages(out) as stages:
        wanted = args.only or ["repo", "app", "crate"]
        if "repo" in wanted:
            stages.run("repo", repo_input.recipe(args.size), repo_input.make)
        if "app" in wanted:
            stages.run("app", app_input.recipe(args.size), app_input.make)
        if "crate" in wanted:
            stages.run("crate", crate_input.recipe(), crate_input.make)
        if "pnpm" in wanted:
            stages.run("pnpm", pnpm_input.recipe(args.size), pnpm_input.make)
        if "git" in wanted:
            stages.run("git", git_input.recipe(), git_input.make)
    print(out)


if __name__ == "__main__":
    main()
