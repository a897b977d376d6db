"""A container image of this machine's Python, pytest, git and patch: no registry is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

PROGRAMS = ("git", "patch", "bash", "busybox")
APPLETS = ("sh", "ls", "cat", "echo", "sleep", "kill", "id", "env", "mkdir", "rm", "sed", "grep", "head")
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")


def python_image(name: str, folder: Path) -> str:
    """Import the image into the daemon that `docker` talks to; its name.

    Args:
        folder: where its files are gathered.
    """
    root = folder / "root"
    bin_, own = root / "bin", root / "usr" / "local"
    for made in (bin_, own / "bin", root / "lib", root / "tmp", root / "proc"):
        made.mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for program in PROGRAMS:
        shutil.copy2(str(shutil.which(program)), bin_ / program)
    for applet in APPLETS:
        (bin_ / applet).symlink_to("busybox")
    shutil.copy2(Path(sys.executable).resolve(), own / "bin" / "python3")
    standard = Path(sysconfig.get_path("stdlib"))
    site = own / "lib" / standard.name
    (site / "site-packages").mkdir(parents=True)
    left_out = shutil.ignore_patterns("site-packages", "__pycache__", "test", "tests", "idlelib", "config-*")
    shutil.copytree(standard, site, ignore=left_out, dirs_exist_ok=True)
    for package in PACKAGES:
        found = find_spec(package)
        assert found is not None and found.origin is not None, package
        path = Path(found.origin)
        if path.name == "__init__.py":
            shutil.copytree(path.parent, site / "site-packages" / package)
        else:
            shutil.copy2(path, site / "site-packages")
        for info in Path(sysconfig.get_path("purelib")).glob(f"{package}-*.dist-info"):
            shutil.copytree(info, site / "site-packages" / info.name)
    _libraries([*bin_.iterdir(), *own.glob("bin/*"), *site.rglob("*.so")], root)
    tar = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True).stdout
    settings = ["--change", "ENV LD_LIBRARY_PATH=/lib"]
    subprocess.run(["docker", "import", *settings, "-", name], input=tar, capture_output=True, check=True)
    shutil.rmtree(root)
    return name


def _libraries(programs: list[Path], root: Path) -> None:
    """The shared libraries of programs, in `/lib`, and their loader where they look for it."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    for path in set(re.findall(r"=> (/\S+)", said)):
        shutil.copy2(path, root / "lib" / Path(path).name)
    for path in set(re.findall(r"^\s+(/\S+) \(", said, re.MULTILINE)):
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
