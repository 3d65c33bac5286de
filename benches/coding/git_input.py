"""git/: git's sources as Debian has them, built with the programs that its own tests need.

The version is that of the machine's Debian release: what counts is that the tests and the program belong together.
"""

import os
import sys
import tarfile

from stages import call, fresh, unpack

# What the tests of the areas that touch a file system do without.
LEFT_OUT = ["CURL", "EXPAT", "GETTEXT", "TCLTK", "PYTHON", "OPENSSL"]
SOURCES = "deb-src http://deb.debian.org/debian {release} main\n"


def recipe():
    return {"format": 1, "left_out": LEFT_OUT, "release": release()}


def release():
    with open("/etc/os-release") as file:
        settings = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    if settings.get("ID") != "debian":
        sys.exit("make_inputs: git's sources come from Debian's package; this is another system")
    return settings["VERSION_CODENAME"].strip('"')


def make(out, recipe):
    folder = fresh(out / "git")
    # Lists of our own: the machine's need not name any sources.
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "source.list").write_text(SOURCES.format(release=recipe["release"]))
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={folder}/source.list", "-o", "Dir::Etc::sourceparts=/dev/null",
           "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache", "-o", "APT::Sandbox::User=root",
           "-o", "Acquire::Retries=5", "-o", "Acquire::http::Timeout=30"]
    call([*apt, "update"], folder)
    call([*apt, "--download-only", "source", "git"], folder)
    archive = next(folder.glob("git_*.orig.tar.*"))
    with tarfile.open(archive) as tar:
        unpack(tar, folder, "tar")
    built = folder / "built"
    next(folder.glob("git-*")).rename(built)
    options = [f"NO_{name}=1" for name in LEFT_OUT]
    call(["make", "-s", f"-j{os.cpu_count() or 1}", "CFLAGS=-O1", *options, "all", "t/helper/test-tool"], built)
    # The tests run as another user too.
    call(["chmod", "-R", "a+rX", folder], folder)
    return {"version": call([built / "git", "version"], built).strip()}
