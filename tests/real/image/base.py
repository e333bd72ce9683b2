"""Lays out a root like that of gcr.io/distroless/cc-debian12:nonroot, from Debian's packages.

    base.py FOLDER_OF_DEBS ROOT

Only what runs a Rust program that speaks TLS: the loader, libc, libm, libgcc, authorities, time zones, a
user. Nothing of glibc's converters, locales or name services: since 2.34 it looks up names by itself.
The result says the same whenever it is made, apart from times, which whoever packs it sets.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What is taken of each package, beside its copyright.
TAKEN = {
    "libc6": [
        r"lib64/ld-linux-.*",
        r"lib/ld-linux-.*",
        r"lib/[^/]+/ld-linux-.*",
        r"lib/[^/]+/lib(c|m|resolv)\.so\.[0-9]+",
    ],
    "libgcc-s1": [r"lib/[^/]+/libgcc_s\.so\.1", r"usr/lib/[^/]+/libgcc_s\.so\.1"],
    "ca-certificates": [r"usr/share/ca-certificates/.*\.crt"],
    "tzdata": [r"usr/share/zoneinfo/(?!right/|posix/).*"],
}
PASSWD = """\
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
"""
GROUP = """\
root:x:0:
nobody:x:65534:
tty:x:5:
nonroot:x:65532:
"""
OS_RELEASE = """\
PRETTY_NAME="Distroless"
NAME="Debian GNU/Linux"
ID="debian"
VERSION_ID="12"
VERSION="Debian GNU/Linux 12 (bookworm)"
"""
NONROOT = 65532


def control(deb):
    """A package's own description, as dpkg keeps it."""
    return subprocess.run(
        ["dpkg-deb", "--field", str(deb)], check=True, capture_output=True, text=True
    ).stdout


def taken(package, unpacked):
    """The files of a package that go into the image, as paths within it."""
    wanted = [*TAKEN[package], rf"usr/share/doc/{package}/copyright"]
    wanted = re.compile("|".join(f"(?:{one})" for one in wanted))
    for path in sorted(unpacked.rglob("*")):
        inside = path.relative_to(unpacked)
        if (path.is_symlink() or not path.is_dir()) and wanted.fullmatch(str(inside)):
            yield inside


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lay_out(debs, root):
    found = {}
    for deb in sorted(debs.glob("*.deb")):
        description = control(deb)
        package = re.search(r"^Package: (\S+)$", description, re.MULTILINE)[1]
        found[package] = description
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder)
            subprocess.run(["dpkg-deb", "--extract", str(deb), folder], check=True)
            for inside in taken(package, unpacked):
                (root / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(unpacked / inside, root / inside, follow_symlinks=False)
        # Where scanners look for the packages of a distroless image.
        write(root / "var/lib/dpkg/status.d" / package, description)
    if set(found) != set(TAKEN):
        raise SystemExit(f"these packages are needed, and no others: {', '.join(TAKEN)}")
    # As update-ca-certificates does: all of them, one after the other.
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = "".join(path.read_text().rstrip("\n") + "\n" for path in authorities)
    write(root / "etc/ssl/certs/ca-certificates.crt", bundle)
    shutil.rmtree(root / "usr/share/ca-certificates")
    write(root / "etc/passwd", PASSWD)
    write(root / "etc/group", GROUP)
    write(root / "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    write(root / "etc/os-release", OS_RELEASE)
    (root / "root").mkdir(mode=0o700)
    home = root / "home/nonroot"
    home.mkdir(parents=True, mode=0o700)
    shutil.chown(home, NONROOT, NONROOT)
    temporary = root / "tmp"
    temporary.mkdir()
    for path in sorted(root.rglob("*")):
        if not path.is_symlink() and path not in (home, root / "root"):
            path.chmod(0o755 if path.is_dir() or path.suffix.startswith(".so") or ".so." in path.name
                       or path.name.startswith("ld-linux-") else 0o644)
    temporary.chmod(0o1777)


lay_out(Path(sys.argv[1]), Path(sys.argv[2]))
