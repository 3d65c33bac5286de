#!/usr/bin/env python3
"""Transactions on one SQLite database, each durable when it returns; what was written is checked.

usage: sqlite_transactions.py DATABASE wal|delete COUNT

Prints {"seconds": of the transactions alone, "done": how many} as JSON.
"""

import json
import sqlite3
import sys
import time

ROWS_PER_TRANSACTION = 3


def main():
    path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    db = sqlite3.connect(path, isolation_level=None)
    became = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
    if became != mode:
        sys.exit(f"the database is in mode {became}, not {mode}: is shared mmap missing?")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE entry(number, part, text, PRIMARY KEY(number, part))")
    began = time.monotonic()
    for number in range(count):
        db.execute("BEGIN IMMEDIATE")
        for part in range(ROWS_PER_TRANSACTION):
            db.execute("INSERT INTO entry VALUES (?, ?, ?)", (number, part, f"{number}/{part} " * 20))
        db.execute("COMMIT")
    seconds = time.monotonic() - began
    db.close()

    db = sqlite3.connect(path)
    rows = db.execute("SELECT count(*) FROM entry").fetchone()[0]
    said = db.execute("PRAGMA integrity_check").fetchone()[0]
    if (rows, said) != (count * ROWS_PER_TRANSACTION, "ok"):
        sys.exit(f"{rows} rows, integrity_check: {said}")
    print(json.dumps({"seconds": seconds, "done": count}))


if __name__ == "__main__":
    main()
