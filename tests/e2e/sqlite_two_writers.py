#!/usr/bin/env python3
"""Two processes write to one SQLite database in WAL mode; every committed row must be there.

usage: sqlite_two_writers.py DATABASE TRANSACTIONS_PER_WRITER
"""

import os
import sqlite3
import sys

BUSY_TIMEOUT_S = 30
ROWS_PER_TRANSACTION = 3


def opened(path):
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    return db


def write(path, writer, transactions):
    db = opened(path)
    for number in range(transactions):
        db.execute("BEGIN IMMEDIATE")
        for part in range(ROWS_PER_TRANSACTION):
            db.execute("INSERT INTO entry VALUES (?, ?, ?, ?)",
                       (writer, number, part, f"{writer}/{number}/{part} " * 20))
        db.execute("UPDATE total SET rows = rows + ?", (ROWS_PER_TRANSACTION,))
        db.execute("COMMIT")
    db.close()


def main():
    path, transactions = sys.argv[1], int(sys.argv[2])
    db = opened(path)
    mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        sys.exit(f"the database is in mode {mode}, not wal: is shared mmap missing?")
    db.execute("CREATE TABLE entry(writer, number, part, text, PRIMARY KEY(writer, number, part))")
    db.execute("CREATE TABLE total(rows)")
    db.execute("INSERT INTO total VALUES (0)")
    db.close()

    children = []
    for writer in range(2):
        child = os.fork()
        if child == 0:
            try:
                write(path, writer, transactions)
                os._exit(0)
            except BaseException as error:
                print(f"writer {writer}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    if failed:
        sys.exit("a writer failed")

    db = opened(path)
    expected = 2 * transactions * ROWS_PER_TRANSACTION
    rows = db.execute("SELECT count(*) FROM entry").fetchone()[0]
    total = db.execute("SELECT rows FROM total").fetchone()[0]
    said = db.execute("PRAGMA integrity_check").fetchone()[0]
    if (rows, total, said) != (expected, expected, "ok"):
        sys.exit(f"rows {rows}, total {total}, expected {expected}, integrity_check: {said}")
    print(f"{rows} rows, integrity {said}")


if __name__ == "__main__":
    main()
