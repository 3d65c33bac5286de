#!/usr/bin/env python3
"""Locks between two processes on one file: fcntl ranges, OFD locks, flock; taking and releasing.

usage: locks.py FILE
"""

import errno
import fcntl
import os
import struct
import sys

F_OFD_SETLK = 37


def refused(attempt):
    try:
        attempt()
        return False
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        raise


def posix(file, kind, start, length):
    fcntl.lockf(file, kind if kind == fcntl.LOCK_UN else kind | fcntl.LOCK_NB, length, start)


def ofd(file, kind, start, length):
    fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


class Other:
    """A second process that does what it is told and says whether it was refused."""

    def __init__(self, path):
        self.orders, orders_in = os.pipe()
        answers_out, self.answers = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(orders_in)
            self.obey(path)
        os.close(self.orders)
        os.close(self.answers)
        self.tell = os.fdopen(orders_in, "w")
        self.hear = os.fdopen(answers_out)

    def obey(self, path):
        try:
            file = open(path, "r+b", buffering=0)
            for order in os.fdopen(self.orders):
                verdict = refused(lambda: eval(order, globals(), {"file": file}))
                os.write(self.answers, b"refused\n" if verdict else b"got it\n")
            os._exit(0)
        except BaseException as error:
            print(f"second process: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)

    def does(self, order):
        self.tell.write(order + "\n")
        self.tell.flush()
        return self.hear.readline().strip()

    def end(self):
        self.tell.close()
        return os.waitpid(self.child, 0)[1]


checks = 0


def expect(what, got, wanted):
    global checks
    checks += 1
    if got != wanted:
        sys.exit(f"{what}: {got!r}, expected {wanted!r}")


def main():
    path = sys.argv[1]
    with open(path, "wb") as made:
        made.write(b"x" * 100)
    other = Other(path)
    file = open(path, "r+b", buffering=0)

    posix(file, fcntl.LOCK_EX, 0, 10)
    expect("a write lock on a locked range", other.does("posix(file, fcntl.LOCK_EX, 5, 10)"), "refused")
    expect("a read lock on a write-locked range", other.does("posix(file, fcntl.LOCK_SH, 0, 1)"), "refused")
    expect("a lock beside it", other.does("posix(file, fcntl.LOCK_EX, 10, 10)"), "got it")
    expect("the range the other has", refused(lambda: posix(file, fcntl.LOCK_EX, 15, 1)), True)
    posix(file, fcntl.LOCK_UN, 0, 5)
    expect("a part that was released", other.does("posix(file, fcntl.LOCK_EX, 0, 5)"), "got it")
    expect("the part that was kept", other.does("posix(file, fcntl.LOCK_EX, 5, 1)"), "refused")
    # Closing any descriptor of the file releases the process's fcntl locks.
    open(path, "rb").close()
    expect("a lock after the owner closed the file", other.does("posix(file, fcntl.LOCK_EX, 5, 5)"), "got it")
    expect("unlock all", other.does("posix(file, fcntl.LOCK_UN, 0, 0)"), "got it")
    posix(file, fcntl.LOCK_SH, 0, 0)
    expect("two readers", other.does("posix(file, fcntl.LOCK_SH, 0, 0)"), "got it")
    expect("a writer beside a reader", refused(lambda: posix(file, fcntl.LOCK_EX, 0, 0)), True)
    expect("unlock all", other.does("posix(file, fcntl.LOCK_UN, 0, 0)"), "got it")
    posix(file, fcntl.LOCK_UN, 0, 0)

    ofd(file, fcntl.F_WRLCK, 0, 50)
    expect("OFD against OFD", other.does("ofd(file, fcntl.F_WRLCK, 0, 1)"), "refused")
    expect("OFD against fcntl", other.does("posix(file, fcntl.LOCK_EX, 0, 1)"), "refused")
    second = open(path, "r+b", buffering=0)
    expect("OFD within a process", refused(lambda: ofd(second, fcntl.F_WRLCK, 0, 1)), True)
    second.close()
    expect("OFD locks outlive another's close", other.does("ofd(file, fcntl.F_WRLCK, 0, 1)"), "refused")
    ofd(file, fcntl.F_UNLCK, 0, 0)
    expect("OFD after release", other.does("ofd(file, fcntl.F_WRLCK, 0, 1)"), "got it")
    expect("OFD release", other.does("ofd(file, fcntl.F_UNLCK, 0, 0)"), "got it")

    fcntl.flock(file, fcntl.LOCK_EX)
    exclusive = "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    shared = "fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)"
    expect("flock on a locked file", other.does(exclusive), "refused")
    fcntl.flock(file, fcntl.LOCK_SH)
    expect("flock shared", other.does(shared), "got it")
    expect("flock exclusive beside shared", other.does(exclusive), "refused")
    fcntl.flock(file, fcntl.LOCK_UN)
    expect("flock upgraded", other.does(exclusive), "got it")
    expect("the other's flock", refused(lambda: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)), True)
    expect("the second process", other.end(), 0)
    expect("flock after its owner ended", refused(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)), False)
    print(f"{checks} lock checks")


if __name__ == "__main__":
    main()
