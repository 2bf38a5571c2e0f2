"""Random test: runs of the command line with random options, environments and faults, checked by what they leave.

    python -m tests.fuzz --runs 300 --seed 0
    python -m tests.fuzz --runs 20 --fresh --results fuzz.jsonl
    python -m tests.fuzz --runs 1 --seed 117 --keep

A run is ``main(["fit", ...])`` in a process forked from this one, which has imported everything already; or, with
``--fresh``, ``python train.py fit``. Case number i follows from the seed i alone. Each result is one line of the
results file, written as it comes; cases that are in it are not run again.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from tests.fuzz_cases import generate, words
from tests.fuzz_checks import Checks


def check(seed: int, folder: Path, fresh: bool = False) -> dict:
    """Run the case of a seed; return the result as plain data."""
    case, started = generate(seed), time.monotonic()
    checks = Checks(case, folder, fresh)
    try:
        wrong = checks()
    except Exception:
        wrong = [f"the test itself failed: {traceback.format_exc()}"]
    result = {"seed": seed, "kind": case.kind, "fault": case.fault, "resumed": case.resumed, "wrong": wrong}
    if wrong:
        result |= {"options": " ".join(words(case.options)), "faulty": " ".join(words(case.wrong))}
    return result | {"seconds": round(time.monotonic() - started, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--results", type=Path, help="file of one JSON line per case; those in it are not run again")
    parser.add_argument("--fresh", action="store_true", help="start each run as python train.py fit")
    parser.add_argument("--keep", type=Path, help="empty folder in which the runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = dict[int, dict]()
    if options.results and options.results.exists():
        done = {result["seed"]: result for result in map(json.loads, options.results.read_text().splitlines())}
    seeds = range(options.seed, options.seed + options.runs)
    for seed in seeds:
        if seed in done:
            continue
        folder = options.keep / str(seed) if options.keep else Path(tempfile.mkdtemp(prefix="fuzz-"))
        folder.mkdir(parents=True, exist_ok=True)
        done[seed] = result = check(seed, folder, options.fresh)
        if not options.keep:
            shutil.rmtree(folder)
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
        if result["wrong"]:
            print(json.dumps(result, indent=1), flush=True)
    results = [done[seed] for seed in seeds]
    kinds = collections.Counter(result["kind"] for result in results)
    failed = [result["seed"] for result in results if result["wrong"]]
    faulty = sum(result["kind"] != "none" for result in results)
    print(f"{len(results)} cases, {faulty} with a fault: {dict(kinds)}; {len(failed)} failed: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
