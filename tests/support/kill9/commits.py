#!/usr/bin/env python3
"""Commits to git, or to SQLite, without end, and records every commit that was acknowledged.

usage: commits.py git|sqlite run FOLDER LOG      until the mount is gone
       commits.py git|sqlite verify FOLDER LOG   after the remount
"""

import json
import os
import sqlite3
import subprocess
import sys

GIT = ["git", "-c", "user.name=Kill", "-c", "user.email=kill@example.invalid", "-c", "gc.auto=0",
       "-c", "safe.directory=*"]
LOST = "an acknowledged operation is not there"
FILES = 20


class Log:
    def __init__(self, path):
        self.path = path
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def add(self, value):
        os.write(self.file, json.dumps(value).encode() + b"\n")

    def acknowledged(self):
        with open(self.path) as lines:
            return [json.loads(line) for line in lines]


def git(folder, *arguments, check=True):
    done = subprocess.run([*GIT, "-C", folder, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if check and done.returncode:
        raise OSError(done.stdout)
    return done.stdout.strip()


def git_run(folder, log):
    if not os.path.exists(os.path.join(folder, ".git/HEAD")):
        git(folder, "init", "-q", "-b", "main")
    number = len(log.acknowledged())
    while True:
        number += 1
        try:
            for i in range(3):
                with open(os.path.join(folder, f"file-{(number + 7 * i) % FILES}"), "a") as target:
                    target.write(f"change {number}\n" * 30)
            git(folder, "add", "-A")
            git(folder, "commit", "-q", "-m", f"commit {number}")
            log.add(git(folder, "rev-parse", "HEAD"))
        except OSError as error:
            # Whatever git says about a vanished mount; verify finds out what is there.
            print(f"commit {number}: {error}", file=sys.stderr)
            return


def git_verify(folder, log):
    acknowledged = log.acknowledged()
    for base, _, names in os.walk(os.path.join(folder, ".git")):
        for name in names:
            if name.endswith(".lock"):
                os.unlink(os.path.join(base, name))
    if acknowledged:
        said = git(folder, "fsck", "--full", check=False)
        bad = [line for line in said.splitlines() if not line.startswith(("dangling", "notice", "Checking"))]
        if bad:
            sys.exit(f"git fsck: {bad[:10]}")
        history = git(folder, "rev-list", "--reverse", "HEAD").split()
        # A commit whose success was not yet recorded may be there, as the last one.
        if history[:len(acknowledged)] != acknowledged or len(history) > len(acknowledged) + 1:
            sys.exit(f"{LOST}: git has {len(history)} commits, {len(acknowledged)} were acknowledged")
        for commit in history[len(acknowledged):]:
            log.add(commit)
        git(folder, "reset", "-q", "--hard", "HEAD")
        # A file that was made and not added yet is nobody's: only the first commits make any.
        said = [line for line in git(folder, "status", "--porcelain").splitlines() if not line.startswith("?? file-")]
        if said:
            sys.exit(f"git status is not clean after reset --hard: {said[:10]}")
    elif os.path.exists(os.path.join(folder, ".git")):
        # Killed before the first commit was acknowledged: start over.
        subprocess.run(["rm", "-rf", os.path.join(folder, ".git")], check=True)
    print(json.dumps({"acknowledged": len(log.acknowledged())}))


def database(folder):
    db = sqlite3.connect(os.path.join(folder, "kill.db"), timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def sqlite_run(folder, log):
    number = len(log.acknowledged())
    try:
        db = database(folder)
        db.execute("CREATE TABLE IF NOT EXISTS entry(number INTEGER PRIMARY KEY, text)")
        while True:
            number += 1
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO entry VALUES (?, ?)", (number, f"text {number} " * 40))
            db.execute("UPDATE entry SET text = text || '.' WHERE number = ?", (number // 2,))
            db.execute("COMMIT")
            log.add(number)
    except (sqlite3.Error, OSError) as error:
        print(f"row {number}: {error}", file=sys.stderr)


def sqlite_verify(folder, log):
    acknowledged = log.acknowledged()
    if acknowledged:
        db = database(folder)
        said = db.execute("PRAGMA integrity_check").fetchone()[0]
        if said != "ok":
            sys.exit(f"integrity_check: {said}")
        rows = [row[0] for row in db.execute("SELECT number FROM entry ORDER BY number")]
        if rows[:len(acknowledged)] != acknowledged or len(rows) > len(acknowledged) + 1:
            sys.exit(f"{LOST}: SQLite has {len(rows)} rows, {len(acknowledged)} commits were acknowledged")
        for number in rows[len(acknowledged):]:
            log.add(number)
        db.close()
    else:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
    print(json.dumps({"acknowledged": len(log.acknowledged())}))


def main():
    kind, what, folder, log = sys.argv[1:5]
    {"git": {"run": git_run, "verify": git_verify},
     "sqlite": {"run": sqlite_run, "verify": sqlite_verify}}[kind][what](folder, Log(log))


if __name__ == "__main__":
    main()
