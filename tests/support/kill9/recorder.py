#!/usr/bin/env python3
"""Changes a folder at random and records every operation before and after it is acknowledged.

usage: recorder.py run FOLDER LOG SEED          until the mount is gone
       recorder.py verify FOLDER LOG KILLED_AT  after the remount; KILLED_AT: CLOCK_MONOTONIC ns

The log lies outside the mount. A line "begin" before the system call, a line "ok" after it
returned. After a kill at most one operation has no "ok": it may have happened or not. All
others must be there, in full, and nothing else.
"""

import errno
import json
import os
import pickle
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True  # nothing is left beside the sources

from state import State, data_of, difference, perform  # noqa: E402

GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ESHUTDOWN)
NODES = 150
LARGEST_WRITE = 40_000
LARGEST_FILE = 200_000
NAMES = [f"n{i}" for i in range(30)] + ["ü", "a b", "x" * 200]


class Recorder:
    def __init__(self, folder, log):
        self.folder = folder
        self.log = log
        self.state = State()
        self.total = 0
        try:
            with open(log + ".state", "rb") as saved:
                self.total, self.state = pickle.load(saved)
        except FileNotFoundError:
            pass

    def replay(self):
        """Applies what was acknowledged since the saved state; returns the operation in flight."""
        begun = None
        if os.path.exists(self.log):
            with open(self.log) as lines:
                for line in lines:
                    entry = json.loads(line)
                    if "op" in entry:
                        begun = entry
                    else:
                        self.state.apply(begun["op"])
                        self.total += 1
                        begun = None
        return begun

    def save(self):
        with open(self.log + ".new", "wb") as saved:
            pickle.dump((self.total, self.state), saved)
        os.replace(self.log + ".new", self.log + ".state")
        if os.path.exists(self.log):
            os.unlink(self.log)

    def run(self, seed):
        chooser = Chooser(self.state, random.Random(seed))
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        while True:
            op = chooser.next()
            os.write(log, json.dumps({"op": op, "at": time.monotonic_ns()}).encode() + b"\n")
            try:
                perform(self.folder, op)
            except OSError as error:
                if error.errno in GONE:
                    return
                sys.exit(f"{op} failed: {error}")
            os.write(log, b'{"ok":1}\n')
            self.state.apply(op)

    def verify(self, killed_at):
        begun = self.replay()
        applied = settle(self.state, begun["op"] if begun else None, self.folder)
        flying = int(begun is not None and begun["at"] <= killed_at)
        self.state = applied
        self.save()
        print(json.dumps({"acknowledged": self.total, "in_flight": flying}))


def settle(state, op, folder):
    """The state that the disk has: all acknowledged, and the one in flight or not."""
    without = difference(state, folder)
    if without is None:
        return state
    if op is None:
        sys.exit(f"an acknowledged operation is not there: {without}")
    after = state.copy()
    if op[0] == "write":
        # The kernel may have cut a large write in two: then a first part of it may be there.
        write_first_part(after, op, folder)
    else:
        after.apply(op)
    with_it = difference(after, folder)
    if with_it is None:
        return after
    sys.exit(f"an acknowledged operation is not there: {without}\n"
             f"(and if {op}, which was in flight, happened: {with_it})")


def write_first_part(state, op, folder):
    _, path, offset, seed, length = op
    data = data_of(seed, length)
    with open(os.path.join(folder, path), "rb") as source:
        content = source.read()
    there = content[offset:offset + length]
    same = next((i for i, (a, b) in enumerate(zip(there, data)) if a != b), min(len(there), len(data)))
    # Whole pages only: anything else was not written by one request.
    if same < length:
        same = max(0, (offset + same) // 4096 * 4096 - offset)
    if same:
        state.write_bytes(path, offset, data[:same])


class Chooser:
    """Picks operations that must succeed in the present state."""

    def __init__(self, state, chance):
        self.state = state
        self.chance = chance

    def next(self):
        while True:
            op = self.propose()
            if op:
                return op

    def pick(self, kind):
        found = [p for p, n in self.state.nodes.items() if n.kind == kind]
        return self.chance.choice(found) if found else None

    def free(self):
        dirs = [p for p, n in self.state.nodes.items() if n.kind == "dir" and p.count("/") < 4]
        path = os.path.join(self.chance.choice([""] + dirs), self.chance.choice(NAMES))
        return None if path in self.state.nodes else path

    def propose(self):
        chance, state = self.chance, self.state
        dice = chance.random()
        if dice < 0.20 and len(state.nodes) < NODES:
            path = self.free()
            return path and ["create", path, chance.choice([0o644, 0o600, 0o755])]
        if dice < 0.24 and len(state.nodes) < NODES:
            path = self.free()
            return path and ["mkdir", path, 0o755]
        if dice < 0.27 and len(state.nodes) < NODES:
            path = self.free()
            return path and ["symlink", f"target-{chance.randrange(1000)}", path]
        if dice < 0.30 and len(state.nodes) < NODES:
            old, new = self.pick("file"), self.free()
            return old and new and ["link", old, new]
        if dice < 0.42:
            path = self.pick("file") if chance.random() < 0.8 else self.pick("link")
            return path and ["unlink", path]
        if dice < 0.44:
            path = self.pick("dir")
            return path and not state.below(path) and ["rmdir", path]
        if dice < 0.54:
            return self.rename()
        return self.change()

    def rename(self):
        old = self.pick(self.chance.choice(["file", "file", "dir", "link"]))
        if not old:
            return None
        if self.state.nodes[old].kind == "dir":
            new = self.free()
            return new and not (new + "/").startswith(old + "/") and ["rename", old, new]
        new = self.pick("file") if self.chance.random() < 0.5 else self.free()
        return new and new != old and ["rename", old, new]

    def change(self):
        chance, dice = self.chance, self.chance.random()
        path = self.pick("file")
        if not path:
            return None
        node = self.state.nodes[path]
        if dice < 0.60:
            at = len(node.content) if chance.random() < 0.6 else chance.randrange(LARGEST_FILE)
            length = chance.randrange(1, chance.choice([200, 4_096, LARGEST_WRITE]))
            return at + length <= LARGEST_FILE and ["write", path, at, chance.randrange(1 << 30), length]
        if dice < 0.70:
            return ["truncate", path, chance.choice([0, chance.randrange(LARGEST_FILE)])]
        if dice < 0.80:
            return ["chmod", path, chance.randrange(0o1000) | 0o600]
        if dice < 0.90:
            return ["utime", path, chance.randrange(1 << 60)]
        if node.xattrs and dice < 0.93:
            return ["removexattr", path, chance.choice(sorted(node.xattrs))]
        return ["setxattr", path, f"user.x{chance.randrange(4)}", "v" * chance.randrange(1, 500)]


def main():
    what, folder, log = sys.argv[1], sys.argv[2], sys.argv[3]
    os.umask(0)
    recorder = Recorder(folder, log)
    if what == "run":
        recorder.run(int(sys.argv[4]))
    else:
        recorder.verify(int(sys.argv[4]))


if __name__ == "__main__":
    main()
