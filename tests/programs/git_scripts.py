#!/usr/bin/env python3
"""Runs git's own test scripts in a folder on the local disk and in one on a mount, and compares them test by test.

usage: git_scripts.py GIT DISK MOUNT [--scripts PATTERN]... [--user NAME] [--jobs N] [--known FILE] [--at-least N]
                      [--report FILE]

GIT is a built source tree of git. What a test does on the local disk is right by definition: a test that ends
otherwise on the mount is a difference, also one that is only skipped there. Some of git's tests race with themselves:
a script with an unknown difference is run once more on both, and only what differs again counts. Differences that FILE
names are allowed, and have to occur. Must not decide what git should do.
"""

import argparse
import concurrent.futures
import fnmatch
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT_TIMEOUT_S = 900
# `ok 3 - title`, `not ok 4 - title # TODO known breakage`, `ok 5 # skip title (missing PREREQ)`.
RESULT = re.compile(r"^(ok|not ok) (\d+)\b(.*)$")
WHOLE_SKIPPED = re.compile(r"^1\.\.0 # SKIP (.*)$", re.IGNORECASE)
PLAN = re.compile(r"^1\.\.(\d+)")


def outcome(word, rest):
    if re.search(r"#\s*skip", rest, re.IGNORECASE):
        return "skipped"
    if "# TODO known breakage" in rest:
        return "known breakage of git" if word == "not ok" else "fixed breakage of git"
    return "passes" if word == "ok" else "fails"


def parsed(text, code):
    """Number of a test -> (outcome, title); number 0 is the script as a whole."""
    found = {}
    planned = None
    for line in text.splitlines():
        if match := RESULT.match(line):
            word, number, rest = match.groups()
            found[int(number)] = (outcome(word, rest), rest.strip(" -#"))
        elif match := WHOLE_SKIPPED.match(line):
            found[0] = ("skipped", match[1])
        elif match := PLAN.match(line):
            planned = int(match[1])
    if 0 not in found:
        complete = planned is not None and planned == len(found)
        found[0] = ("ended" if complete else f"broke off with {code}", "the script")
    return found


def environment():
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    # glibc's checks of memory are not what is looked for here, and they are slow.
    return {**kept, "TEST_NO_MALLOC_CHECK": "1"}


def run_script(tests, script, place, user):
    # Short, because gpg's sockets lie below it, and a socket's name has at most 107 bytes.
    root = place / script.split("-")[0]
    root.mkdir()
    command = []
    if user:
        entry = pwd.getpwnam(user)
        os.chown(root, entry.pw_uid, entry.pw_gid)
        command = ["setpriv", "--reuid", user, "--regid", str(entry.pw_gid), "--clear-groups"]
    # --debug keeps the folder that the tests worked in.
    command += ["./" + script, f"--root={root}", "--debug"]
    environ = {**environment(), "TEST_OUTPUT_DIRECTORY": str(root), "HOME": str(root)}
    process = subprocess.Popen(command, cwd=tests, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    began = time.monotonic()
    try:
        said, _ = process.communicate(timeout=SCRIPT_TIMEOUT_S)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        code = f"a timeout of {SCRIPT_TIMEOUT_S} s"
    seconds = time.monotonic() - began
    text = said.decode(errors="replace")
    results = parsed(text, code)
    if results[0][0] != "skipped" and not list(root.glob("trash directory.*")):
        sys.exit(f"git_scripts: {script} did not work in {root}:\n{text[-2000:]}")
    # Tests leave folders without permissions behind; rm -rf as root is not stopped by them.
    subprocess.run(["rm", "-rf", root], check=True)
    return {"results": results, "seconds": seconds, "text": text}


def known_differences(path):
    """Lines of `script number reason`; number 0 is the script as a whole."""
    known = {}
    for line in path.read_text().splitlines() if path else []:
        if line.strip() and not line.startswith("#"):
            script, number, reason = line.split(None, 2)
            known[(script, int(number))] = reason
    return known


def differences(script, disk, mount):
    for number in sorted(set(disk) | set(mount)):
        there, here = (side.get(number, ("does not run", "")) for side in (disk, mount))
        if there[0] != here[0]:
            yield (script, number), (f"{script} {number}: {there[0]} on the local disk, {here[0]} on the mount: "
                                     f"{here[1] or there[1]}")


def chosen(tests, patterns):
    every = sorted(path.name for path in tests.glob("t[0-9]*.sh"))
    found = [name for name in every if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            sys.exit(f"git_scripts: no script matches {pattern}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("git", type=Path)
    # git's --root must be absolute: anything else it takes to be below its own folder.
    parser.add_argument("disk", type=lambda text: Path(text).resolve())
    parser.add_argument("mount", type=lambda text: Path(text).resolve())
    parser.add_argument("--scripts", action="append", default=[])
    parser.add_argument("--user")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--at-least", type=int, default=1, help="how many tests have to pass on the mount")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    tests = (args.git / "t").resolve()
    scripts = chosen(tests, args.scripts)
    known = known_differences(args.known)
    report, unknown, seen, counts = {}, [], set(), {}

    def both(script):
        sides = [run_script(tests, script, place, args.user) for place in (args.disk, args.mount)]
        return *sides, dict(differences(script, *(side["results"] for side in sides)))

    def compared(script):
        disk, mount, found = both(script)
        if found.keys() - known.keys():
            print(f"{script} is run again, because of:", *found.values(), sep="\n  ", file=sys.stderr, flush=True)
            *_, again = both(script)
            print(f"{script}, the second time:", *again.values(), sep="\n  ", file=sys.stderr, flush=True)
            found = {key: text for key, text in found.items() if key in known or key in again}
        return script, disk, mount, found

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for script, disk, mount, found in pool.map(compared, scripts):
            for number, (how, _) in mount["results"].items():
                if number or how == "skipped":
                    counts[how] = counts.get(how, 0) + 1
            report[script] = {"disk_s": disk["seconds"], "mount_s": mount["seconds"], "disk": disk["results"],
                              "mount": mount["results"], "differences": list(found.values())}
            for key, text in found.items():
                seen.add(key)
                if key not in known:
                    unknown.append(text)
                    print(text, file=sys.stderr, flush=True)
            if found and args.report:
                for name, side in (("disk", disk), ("mount", mount)):
                    args.report.with_name(f"{script}.{name}.txt").write_text(side["text"])
            if args.report:
                args.report.write_text(json.dumps(report, indent=1))
    stale = [f"{key[0]} {key[1]} is listed as a difference and is none" for key in known
             if key not in seen and key[0] in scripts]
    passed = counts.get("passes", 0)
    print(f"{len(scripts)} scripts as {args.user or 'root'}: {passed} tests pass on the mount, {counts}, "
          f"{len(seen)} differences, {len(unknown)} of them unknown; seconds: "
          f"disk {sum(r['disk_s'] for r in report.values()):.0f}, mount {sum(r['mount_s'] for r in report.values()):.0f}")
    for line in stale:
        print(line, file=sys.stderr)
    if passed < args.at_least:
        print(f"only {passed} tests pass, at least {args.at_least} were expected", file=sys.stderr)
    sys.exit(1 if unknown or stale or passed < args.at_least else 0)


if __name__ == "__main__":
    main()
