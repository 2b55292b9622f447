"""`make ota-trial`: ten thousand updates, each damaged or cut off, on CPython and MicroPython.

    python -m tests.firmware.ota_trial --cases 10000 --seed 7

Exit 1 if any node ran what it should not, or did not come to rest.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
FIRMWARE = FOLDER.parents[1] / "firmware"
sys.path[:0] = [str(FIRMWARE), str(FOLDER)]

import ota_device  # noqa: E402
from ota.state import TRIES  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

from infra.local.micropython import micropython  # noqa: E402
from infra.local.parts import locate  # noqa: E402
from infra.local.settings import StackSettings  # noqa: E402
from tests.firmware.ota_cases import Case, Workshop, cases  # noqa: E402

Verdict = dict[str, Any]


def faults_of(case: Case, verdict: Verdict) -> list[str]:
    """What is wrong with how a case ended."""
    if "wrong" in verdict:
        return [verdict["wrong"]]
    found = []
    expected = case["expect"]
    if verdict["outcome"] == "not_healthy" and len(case.get("cuts", [])) >= TRIES:
        expected = "not_healthy"  # each start of its trial may have been cut off
    taken = expected == "new"
    if verdict["runs"] != ("new" if taken else "old"):
        found.append(f"{verdict['runs']} runs, not {'new' if taken else 'old'}")
    if verdict["outcome"] != ("done" if taken else expected):
        found.append(f"it says {verdict['outcome']}, not {expected}")
    if not taken and verdict["counter"] != case["counter"]:
        found.append(f"the counter is {verdict['counter']}, not {case['counter']}")
    if verdict["counter"] < case["counter"]:
        found.append("the counter went back")
    return found


def every_cut(*, sick: bool, torn: str, step: int = 1) -> list[Case]:
    """One update, cut at each byte that it writes; `sick`: one that is rolled back."""
    case = Workshop(5).good(torn=torn, sick=sick, kind=f"cut, {torn}") | {
        "expect": "not_healthy" if sick else "new"
    }
    written = ota_device.run_case(case)["written"]
    return [case | {"cuts": [cut], "number": cut} for cut in range(0, written, step)]


def on_cpython(chosen: list[Case]) -> Iterator[Verdict]:
    for case in chosen:
        try:
            verdict = ota_device.run_case(case)
        except AssertionError as error:
            verdict = {"wrong": str(error)}
        yield {**verdict, "number": case["number"]}


def on_micropython(chosen: list[Case]) -> Iterator[Verdict]:
    """All cases in one process. Raises RuntimeError if it dies.

    Its heap is twice a node's: the cases and the played flash lie in it as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "cases.jsonl"
        lines.write_text("".join(json.dumps(case) + "\n" for case in chosen))
        command = micropython(
            locate(StackSettings().parts_dir),
            str(FOLDER / "ota_device.py"),
            str(lines),
            heap="240K",
        )
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={"MICROPYPATH": str(FIRMWARE)}
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith("{"):
                    raise RuntimeError(line)
                yield json.loads(line)
        if process.returncode:
            raise RuntimeError(f"MicroPython ended with {process.returncode}")


def run(chosen: list[Case], ran: Iterator[Verdict], title: str) -> int:
    """Print how the cases ended, in a line; how many were wrong."""
    began = time.monotonic()
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    starts = 0
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for case, verdict in progress.track(
            zip(chosen, ran, strict=True), total=len(chosen), description=title
        ):
            assert case["number"] == verdict["number"]
            wrong += [f"{case['number']} {case['kind']}: {one}" for one in faults_of(case, verdict)]
            ends[str(verdict.get("outcome"))] += 1
            starts += verdict.get("starts", 0)
    cut = sum("cuts" in case for case in chosen)
    print(
        f"{title}: {len(chosen)} updates, {cut} with power cuts, {starts} starts, "
        f"{time.monotonic() - began:.0f} s: {len(wrong)} wrong"
    )
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(ends.items())))
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--micropython-cases", type=int, default=1_000)
    parser.add_argument("--step", type=int, default=1, help="of the bytes at which power is cut")
    arguments = parser.parse_args()

    chosen = list(cases(arguments.cases, arguments.seed))
    wrong = run(chosen, on_cpython(chosen), f"seed {arguments.seed}")
    chosen = list(cases(arguments.micropython_cases, arguments.seed + 1))
    wrong += run(chosen, on_micropython(chosen), f"seed {arguments.seed + 1}, MicroPython")
    for torn in ota_device.TORN:
        for sick in (False, True):
            chosen = every_cut(sick=sick, torn=torn, step=arguments.step)
            title = f"each {arguments.step}. byte, {torn}{', rolled back' if sick else ''}"
            wrong += run(chosen, on_cpython(chosen), title)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
