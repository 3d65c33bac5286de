#!/usr/bin/env python3
"""Several processes append records to one file; none may be lost, torn or mixed.

usage: append.py FILE PROCESSES RECORDS_EACH
"""

import os
import sys


def record(writer, number):
    body = f"{writer}:{number}:".encode()
    return body + bytes([97 + number % 26]) * (40 + number % 150) + b"\n"


def append(path, writer, records):
    target = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(records):
        data = record(writer, number)
        if os.write(target, data) != len(data):
            raise OSError("a short write")
    os.close(target)


def main():
    path, processes, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    children = []
    for writer in range(processes):
        child = os.fork()
        if child == 0:
            try:
                append(path, writer, records)
                os._exit(0)
            except BaseException as error:
                print(f"writer {writer}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit("a writer failed")
    with open(path, "rb") as source:
        lines = source.read().splitlines(keepends=True)
    nexts = [0] * processes
    for line in lines:
        writer = int(line.split(b":", 1)[0])
        if line != record(writer, nexts[writer]):
            sys.exit(f"record {nexts[writer]} of writer {writer} is torn, lost or out of order: {line!r}")
        nexts[writer] += 1
    if nexts != [records] * processes:
        sys.exit(f"records found per writer: {nexts}, expected {records}")
    print(f"{len(lines)} records of {processes} processes, all whole and in order")


if __name__ == "__main__":
    main()
