"""Checks the packages that ``uv.lock`` locks: their licenses, and whether vulnerabilities are known in them.

Licenses are read from the metadata of what is installed, so that needs no network. Vulnerabilities are asked of OSV by
pip-audit; where that cannot be reached the answer is "not checked", and with ``--must-check`` a failure.

    ./dev run python .ci/locked.py [--must-check]
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"

ALLOWED = {
    *("MIT", "MIT-0", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "Apache-2.0", "PSF-2.0"),
    *("MPL-2.0", "CC0-1.0", "Unlicense"),
}
"""What may be used by and shipped beside a program under MIT. MPL asks for its own files only."""

ALLOWED_FOR = {"LGPL-3.0-only": {"psycopg", "psycopg-binary"}, "none at all": {"promql-parser"}}
"""Used as it is, by import: with the extra for PostgreSQL; by a test alone, where it names none."""

SPOKEN = {
    "mit": "MIT",
    "mit license": "MIT",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "public domain": "Unlicense",
}
"""How licenses are called where no SPDX expression is given."""

_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ProxyError|dns error|Failed to fetch|sending request",
    re.IGNORECASE,
)


def locked() -> dict[str, str]:
    """The names and versions in the lock file, without the project's own."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return {one["name"]: one["version"] for one in packages if "registry" in one["source"]}


def license_of(name: str) -> str | None:
    """A package's license as an SPDX expression, or in its own words; None where it is not installed here."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    said = [about.get("License-Expression") or "", about.get("License") or ""]
    classifiers = [one for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    said += [one.rpartition(" :: ")[2] for one in classifiers]
    if said[0]:
        return said[0]
    known = [SPOKEN[one.strip().lower()] for one in said if one.strip().lower() in SPOKEN]
    if known:
        return known[0]
    return next((one.splitlines()[0][:60] for one in said if one.strip()), "none at all")


def is_allowed(name: str, expression: str) -> bool:
    """Whether an SPDX expression leaves a choice that is allowed: ``OR`` is a choice, ``AND`` asks for both."""
    choices = re.split(r"\s+OR\s+", expression.replace("(", "").replace(")", ""))
    return any(
        all(part in ALLOWED or name in ALLOWED_FOR.get(part, ()) for part in re.split(r"\s+AND\s+", choice))
        for choice in choices
    )


def check_licenses(names: Iterable[str]) -> bool:
    """Say which packages have a license that is not on the list; True where none has."""
    found = {name: license_of(name) for name in names}
    wrong = {name: said for name, said in found.items() if said is not None and not is_allowed(name, said)}
    absent = [name for name, said in found.items() if said is None]
    for name, said in wrong.items():
        print(f"license not allowed: {name}: {said}")
    elsewhere = f"; not installed on this machine, not checked: {', '.join(absent)}" if absent else ""
    print(f"licenses: {len(found) - len(absent) - len(wrong)} allowed, {len(wrong)} not{elsewhere}")
    return not wrong


def check_vulnerabilities(*, must_check: bool) -> bool:
    """Ask for known vulnerabilities; False where there are any, or where nothing could be asked and that must be."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        export = ["uv", "export", "--quiet", "--frozen", "--all-extras", "--all-groups", "--no-emit-project"]
        subprocess.run([*export, "--output-file", str(requirements)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        audit = ["uv", "tool", "run", "--quiet", PIP_AUDIT, "--vulnerability-service", "osv", "--format", "json"]
        audit += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--requirement", str(requirements)]
        ran = subprocess.run(audit, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if not _UNREACHABLE.search(ran.stderr):
            print(f"vulnerabilities: pip-audit failed:\n{ran.stderr[-2000:].strip()}")
            return False
        print("vulnerabilities: not checked: no network (the vulnerability service cannot be reached)")
        return not must_check
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    known = [(one["name"], one["version"], each["id"]) for one in packages for each in one.get("vulns", ())]
    for name, version, vulnerability in known:
        print(f"vulnerable: {name} {version}: {vulnerability}")
    left_out = f"; not checked: {', '.join(skipped)}" if skipped else ""
    print(f"vulnerabilities: {len(known)} known in {len(packages) - len(skipped)} packages{left_out}")
    return not known and not (skipped and must_check)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--must-check", action="store_true", help="fail where vulnerabilities cannot be asked for")
    options = parser.parse_args()
    is_licensed = check_licenses(locked())
    return 0 if check_vulnerabilities(must_check=options.must_check) and is_licensed else 1


if __name__ == "__main__":
    sys.exit(main())
