#!/usr/bin/env python3
"""Many processes on one SQLite database; some of the writers are killed in the middle.

usage: sqlite_stress.py DATABASE MODE TRANSACTIONS LOGS
       sqlite_stress.py --check DATABASE TRANSACTIONS
  MODE          wal, wal-mmap, delete, truncate, persist, delete-mmap
  TRANSACTIONS  how many each writer commits
  LOGS          a folder elsewhere, where writers note what was acknowledged

Every transaction leaves the database in a state that can be told from a torn one: each writer's rows add up to what
its line in `done` says. Readers look at that all the time. At the end integrity and counts are checked; --check does
that again. Prints one line with figures. Must not look at how long anything took.
"""

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

WRITERS = 6
READERS = 2
KILLED = 3  # of the writers
ROWS = 8  # inserted by each transaction; every fourth transaction removes those of an older one
# SQLite's waiting is not fair: who asks every 100 ms may lose again and again to one that asks at once.
BUSY_TIMEOUT_S = 600
END_TIMEOUT_S = 1500
# So everybody leaves the others a moment, of a length that varies.
LONGEST_PAUSE_S = 0.004
MMAP_BYTES = 256 << 20
MODES = {
    "wal": ("wal", 0), "wal-mmap": ("wal", MMAP_BYTES), "delete": ("delete", 0), "delete-mmap": ("delete", MMAP_BYTES),
    "truncate": ("truncate", 0), "persist": ("persist", 0),
}


def opened(database, mode):
    journal, mmap_bytes = MODES[mode]
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    # The timeout of connect() is not obeyed while the journal mode is changed, so it is only asked for here.
    used = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if journal == "wal":
        assert used == "wal", used
    else:
        used = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
        assert used == journal, used
    mapped = connection.execute(f"PRAGMA mmap_size={mmap_bytes}").fetchone()
    assert mapped is not None and mapped[0] == mmap_bytes, mapped
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA cache_size=-256")
    return connection


def body(writer, number, row):
    seed = f"{writer} {number} {row}".encode()
    length = 200 + int.from_bytes(hashlib.sha256(seed).digest()[:2]) % 6000
    return (hashlib.sha256(seed).digest() * (length // 32 + 1))[:length]


def removed_by(number):
    """The transaction whose rows this one removes, if any."""
    return number - 2 if number % 4 == 3 else None


def expected(done):
    """Which transactions of a writer have rows, once `done` of them are committed."""
    removed = {removed_by(n) for n in range(done)}
    return [n for n in range(done) if n not in removed]


def write(database, mode, writer, transactions, log):
    connection = opened(database, mode)
    with open(log, "ab", buffering=0) as acknowledged:
        while True:
            connection.execute("BEGIN IMMEDIATE")
            number = connection.execute("SELECT number FROM done WHERE writer=?", (writer,)).fetchone()[0]
            if number == transactions:
                connection.execute("ROLLBACK")
                return
            for row in range(ROWS):
                connection.execute("INSERT INTO entry VALUES (?,?,?,?)", (writer, number, row, body(writer, number, row)))
            if (old := removed_by(number)) is not None:
                connection.execute("DELETE FROM entry WHERE writer=? AND number=?", (writer, old))
            connection.execute("UPDATE done SET number=? WHERE writer=?", (number + 1, writer))
            connection.execute("COMMIT")
            acknowledged.write(f"{number + 1}\n".encode())
            time.sleep(random.random() * LONGEST_PAUSE_S)


def read(database, mode, seed):
    """Until it is told to end: one writer's rows and its line in `done`, in one snapshot."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    chance = random.Random(seed)
    connection = opened(database, mode)
    looks = 0
    while not ended or not looks:
        writer = chance.randrange(WRITERS)
        connection.execute("BEGIN")
        done = connection.execute("SELECT number FROM done WHERE writer=?", (writer,)).fetchone()[0]
        rows = connection.execute("SELECT count(*) FROM entry WHERE writer=?", (writer,)).fetchone()[0]
        wanted = expected(done)
        if wanted:
            number = chance.choice(wanted)
            some = connection.execute("SELECT row, body FROM entry WHERE writer=? AND number=?", (writer, number)).fetchall()
            assert sorted(some) == [(row, body(writer, number, row)) for row in range(ROWS)], (writer, number, some)
        connection.execute("COMMIT")
        assert rows == len(wanted) * ROWS, f"writer {writer}: {rows} rows after {done} transactions"
        looks += 1
        time.sleep(0.002)
    print(looks)


def check(database, transactions):
    connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S)
    said = connection.execute("PRAGMA integrity_check").fetchall()
    assert said == [("ok",)], said
    done = dict(connection.execute("SELECT writer, number FROM done"))
    assert done == {writer: transactions for writer in range(WRITERS)}, done
    rows = 0
    for writer, number, row, content in connection.execute("SELECT * FROM entry ORDER BY writer, number, row"):
        assert content == body(writer, number, row), f"wrong bytes in {writer} {number} {row}"
        rows += 1
    wanted = WRITERS * len(expected(transactions)) * ROWS
    assert rows == wanted, f"{rows} rows, wanted {wanted}"
    return rows


def acknowledged(log):
    lines = log.read_bytes().split(b"\n") if log.exists() else [b""]
    return int(lines[-2]) if len(lines) > 1 else 0


def start(database, mode, *arguments):
    command = [sys.executable, __file__, "--part", database, mode, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def make(database, mode):
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={MODES[mode][0]}")
    connection.execute("CREATE TABLE entry (writer INT, number INT, row INT, body BLOB, PRIMARY KEY (writer, number, row)) WITHOUT ROWID")
    connection.execute("CREATE TABLE done (writer INTEGER PRIMARY KEY, number INT)")
    connection.executemany("INSERT INTO done VALUES (?, 0)", [(writer,) for writer in range(WRITERS)])
    connection.close()


def wait(process, what):
    said, _ = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == 0, f"{what} ended with {process.returncode}"
    return said


def kill_some(writers, logs, transactions):
    """Kills once a quarter of the work is acknowledged; returns which, and how many of them had work left."""
    until = time.monotonic() + END_TIMEOUT_S
    while sum(acknowledged(log) for log in logs) < WRITERS * transactions // 4:
        for number, process in enumerate(writers):
            assert process.poll() in (None, 0), f"writer {number} ended with {process.returncode}"
        assert time.monotonic() < until, "the writers do not get on"
        time.sleep(0.005)
    # Those with the most to do. Three quarters of all work were left a moment ago, so they are at it.
    victims = sorted(range(WRITERS), key=lambda number: acknowledged(logs[number]))[:KILLED]
    in_work = 0
    for number in victims:
        # Not all at one instant: each may be anywhere in its transaction.
        time.sleep(random.random() / 100)
        in_work += writers[number].poll() is None
        writers[number].kill()
        writers[number].wait()
    assert in_work, "every writer to be killed had ended: too few transactions"
    return victims, in_work


def stress(database, mode, transactions, folder):
    make(database, mode)
    logs = [folder / f"{mode}-{writer}" for writer in range(WRITERS)]
    begin = lambda writer: start(database, mode, "write", writer, transactions, logs[writer])  # noqa: E731
    running = [begin(writer) for writer in range(WRITERS)]
    readers = [start(database, mode, "read", seed) for seed in range(READERS)]
    try:
        victims, killed = kill_some(running, logs, transactions)
        look = sqlite3.connect(database, timeout=BUSY_TIMEOUT_S)
        for writer in victims:
            noted, = look.execute("SELECT number FROM done WHERE writer=?", (writer,)).fetchone()
            told = acknowledged(logs[writer])
            assert noted in (told, told + 1), f"writer {writer}: {told} acknowledged, {noted} there"
        look.close()
        for writer in victims:
            running[writer] = begin(writer)
        for number, process in enumerate(running):
            wait(process, f"writer {number}")
        for process in readers:
            process.send_signal(signal.SIGTERM)
        looks = sum(int(wait(process, "a reader")) for process in readers)
    finally:
        for process in running + readers:
            process.kill()
    rows = check(database, transactions)
    print(f"{mode}: {WRITERS * transactions} transactions by {WRITERS} writers, {killed} killed at work, "
          f"{looks} consistent looks by {READERS} readers, {rows} rows")


def main():
    what, *rest = sys.argv[1:]
    if what == "--part":
        database, mode, part, *rest = rest
        if part == "write":
            writer, transactions, log = rest
            write(database, mode, int(writer), int(transactions), log)
        else:
            read(database, mode, int(rest[0]))
    elif what == "--check":
        print(check(rest[0], int(rest[1])))
    else:
        mode, transactions, folder = rest
        stress(what, mode, int(transactions), Path(folder))


if __name__ == "__main__":
    main()
