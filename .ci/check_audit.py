"""Reads what pip-audit found: 0 nothing known, 1 vulnerable, 2 it could not ask about some of the packages, or any."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: Path) -> int:
    """Prints what is wrong, one line a package; returns the exit status."""
    try:
        packages = json.loads(report.read_text())["dependencies"]
    except (OSError, ValueError, KeyError) as error:
        print(f"audit: no answer from the advisories ({type(error).__name__}); is there a network?", file=sys.stderr)
        return 2
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            mend = ", ".join(found.get("fix_versions") or ()) or "no release yet"
            print(f"audit: {package['name']} {package['version']}: {found['id']}, mended in {mend}", file=sys.stderr)
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        first = ", ".join(unknown[:3])
        why = " ".join(str(next(package["skip_reason"] for package in packages if "skip_reason" in package)).split())
        counts = f"{len(unknown)} of {len(packages)} packages"
        print(f"audit: {counts} could not be asked about: {first} ({why[:200]})", file=sys.stderr)
    if vulnerable:
        return 1
    return 2 if unknown or not packages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
