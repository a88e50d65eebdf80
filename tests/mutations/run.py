#!/usr/bin/env python3
"""Breaks one feature after the other and shows that its test goes red: run.py [--list] [--jobs N] [FILTER...]

A test that stays green when its feature is broken proves nothing. Each entry of *.json here names a feature, one change of the source
that breaks it, and the test case that has to notice (README.md tells the format). For each, this program

1. lays a layer (overlayfs) over the tree and its build folder, in a mount namespace of its own: the same paths, the same time stamps,
   so that ninja compiles just what the change touches, and nothing to restore, because the tree itself is never written to;
2. makes the change, builds the entry's targets, and runs the named case alone, with a time limit;
3. judges: RED, the case failed by an assertion (also a wait that ran out); GREEN, it passed, and is no proof; BROKEN, the entry itself
   is no good: it does not apply, does not build, keeps pintled from starting, or the test fell over instead of asserting.

Before that, the unchanged tree is built and every named case has to pass. Exits with 1 if any entry is not red.
FILTER: part of a feature's, file's or case's name. Environment: PINTLE_BUILD (build folder, default build/release).
"""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

TREE = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.realpath(os.environ.get("PINTLE_BUILD") or os.path.join(TREE, "build", "release"))
KEYS = {"feature", "file", "find", "replace", "targets", "test", "case", "environment", "limit"}
NODE_TARGETS = ("product", "workload")  # what tests of a whole node use
RED, GREEN, BROKEN = "red", "GREEN", "BROKEN"
# What a failed assertion says when the node itself is to blame: then the entry breaks more than its feature.
NODE_IS_GONE = ("pintled ended with", "pintled is ready", "pintled did not end cleanly", "[Errno 111]")


class Stale(Exception):
    """An entry that does not fit the tree any more."""


# ---- Entries ----


def read_entries(filters):
    entries = []
    for path in sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "*.json"))):
        with open(path, encoding="utf-8") as file:
            listed = json.load(file)
        for entry in listed:
            entry["from"] = os.path.basename(path)
            unknown = set(entry) - KEYS - {"from"}
            missing = KEYS - {"environment", "limit"} - set(entry)
            if unknown or missing:
                raise SystemExit(f"{entry['from']}: {entry.get('feature', '?')}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
            entries.append(entry)
    if filters:
        entries = [one for one in entries if any(text.lower() in name(one).lower() for text in filters)]
    return entries


def name(entry):
    return f"{entry['from']}: {entry['feature']} {entry['file']} {entry['test']} {entry['case']}"


def is_python(entry):
    return entry["test"].endswith(".py")


def changed_text(entry):
    """The source with the change made. The text to find must be there exactly once."""
    path = os.path.join(TREE, entry["file"])
    if not os.path.isfile(path):
        raise Stale(f"stale: there is no file {entry['file']}")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    count = text.count(entry["find"])
    if count != 1:
        raise Stale(f"stale: the text to find occurs {count} times in {entry['file']}")
    if entry["find"] == entry["replace"]:
        raise Stale("stale: it changes nothing")
    if is_python(entry):
        case = entry["case"].rpartition(".")[2]
        with open(os.path.join(TREE, entry["test"]), encoding="utf-8") as file:
            if f"def {case}(" not in file.read():
                raise Stale(f"stale: {entry['test']} has no case {case}")
    return text.replace(entry["find"], entry["replace"])


# ---- Layers ----


class Layer:
    """What differs from the tree and its build folder: folders for overlayfs, one pair for each of the two."""

    def __init__(self, folder, below=None):
        self.folder = folder
        self.below = below
        self.places = [TREE] if BUILD.startswith(TREE + os.sep) else [TREE, BUILD]
        for number in range(len(self.places)):
            os.makedirs(self.upper(number))
            os.makedirs(os.path.join(folder, f"work{number}"))

    def upper(self, number):
        return os.path.join(self.folder, f"upper{number}")

    def write(self, path, text):
        """Puts a file of the tree into the layer."""
        target = os.path.join(self.upper(0), path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)

    def command(self, *words):
        """The command, as it runs inside of the layer."""
        script, options = "", []
        for number, place in enumerate(self.places):
            lower = [self.below.upper(number)] if self.below else []
            options += [f"lowerdir={':'.join([*lower, place])},upperdir={self.upper(number)},workdir={self.folder}/work{number}", place]
            script += 'mount -t overlay overlay -o "$1" "$2" && shift 2 && '
        script += 'cd "$1" && shift && exec "$@"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *options, TREE, *words]

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Runs:
    """Programs under way, each in a session of its own, so that all of them can be ended."""

    def __init__(self):
        self.lock = threading.RLock()  # a signal may find its holder
        self.under_way = set()
        self.stopped = False

    def run(self, command, limit, environment=None):
        """(exit code or None for one that ran out of time, output)"""
        with self.lock:
            if self.stopped:
                return None, "interrupted"
            with tempfile.TemporaryFile() as output:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                           env={**os.environ, **(environment or {})})
                descriptor = os.dup(output.fileno())
            self.under_way.add(process)
        code = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            self._end(process)
        finally:
            with self.lock:
                self.under_way.discard(process)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                text = file.read().decode(errors="replace")
        return code, text

    def _end(self, process):
        """A test program asked to end takes its namespaces and cgroups along; whoever does not listen is killed."""
        for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
            try:
                os.killpg(process.pid, number)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def stop(self):
        with self.lock:
            self.stopped = True
            processes = list(self.under_way)
        for process in processes:
            self._end(process)


# ---- Building and testing ----


def build(runs, layer, targets, jobs):
    """None, or why it did not build."""
    environment = {"CCACHE_BASEDIR": TREE, "CCACHE_NOHASHDIR": "1"}
    code, text = runs.run(layer.command("nice", "ninja", "-C", BUILD, "-j", str(jobs), *targets), 1800, environment)
    if code == 0:
        return None
    errors = [line for line in text.splitlines() if "error" in line.lower() or "FAILED" in line]
    return "does not build: " + " | ".join((errors or text.splitlines()[-3:])[:4])


def test_command(entry, cases):
    if is_python(entry):
        return [sys.executable, os.path.join(TREE, entry["test"]), *cases]
    found = [path for path in glob.glob(os.path.join(BUILD, "**", entry["test"]), recursive=True) if os.path.isfile(path)]
    return [found[0] if found else os.path.join(BUILD, entry["test"]), "--gtest_filter=" + ":".join(cases)]


def run_cases(runs, layer, entry, cases, limit):
    environment = {"PINTLE_BUILD": BUILD, "PYTHONPATH": os.path.join(TREE, "tests", "harness"), "PYTHONDONTWRITEBYTECODE": "1",
                   **{key: value.replace("${BUILD}", BUILD) for key, value in entry.get("environment", {}).items()}}
    return runs.run(layer.command(*test_command(entry, cases)), limit, environment)


def failures(text):
    """unittest's reports of what failed: (FAIL or ERROR, function in which it began, last line, all of it)."""
    for part in re.split(r"^={60,}\n", text, flags=re.MULTILINE)[1:]:
        kind = part.partition(":")[0]
        if kind not in ("FAIL", "ERROR"):
            continue
        report = re.split(r"^Ran \d+ test", part, flags=re.MULTILINE)[0]
        frames = re.findall(r"^  File \".*\", line \d+, in (\S+)$", report, flags=re.MULTILINE)
        problem = re.findall(r"^([A-Za-z_.]*(?:Error|Timeout|Exception|Expired|Interrupt)\b.*)$", report, flags=re.MULTILINE)
        yield kind, frames[0] if frames else "?", problem[-1] if problem else report.strip().splitlines()[-1], report


def judge_python(code, text):
    if code is None and re.search(r"(^|\.\.\. )FAIL$", text, flags=re.MULTILINE):
        return RED, "it failed, and had not cleaned up when its time was over"
    if code is None:
        return BROKEN, "did not end in time: " + (text.strip().splitlines() or ["no output"])[-1]
    ran = re.search(r"^Ran (\d+) test", text, flags=re.MULTILINE)
    if not ran or ran.group(1) == "0":
        return BROKEN, "no test ran: " + (text.strip().splitlines() or ["no output"])[-1]
    if code == 77 or re.search(r"^OK \(.*skipped", text, flags=re.MULTILINE):
        return BROKEN, "the test was skipped"
    if code == 0:
        return GREEN, "passed although its feature is broken"
    found = list(failures(text))
    if not found:
        return BROKEN, f"the test ended with {code} and told no failure"
    for kind, where, problem, report in found:
        gone = next((sign for sign in NODE_IS_GONE if sign in report), None)
        if gone:
            return BROKEN, f"the node itself failed: {gone}: {problem}"
        # A program that the test ran had its time: that is a wait which ran out.
        if where != "setUp" and (kind == "FAIL" or problem.startswith("subprocess.TimeoutExpired")):
            return RED, problem
    kind, where, problem, _ = found[0]
    return BROKEN, f"the test fell over in {where} instead of asserting: {problem}"


def judge_gtest(code, text):
    if code is None:
        return BROKEN, "did not end in time"
    if "[==========] Running 0 tests" in text or "[ RUN      ]" not in text:
        return BROKEN, "no test ran"
    if "[  SKIPPED ]" in text:
        return BROKEN, "the test was skipped"
    if code == 0:
        return GREEN, "passed although its feature is broken"
    if code < 0 or "[  FAILED  ]" not in text:
        return BROKEN, f"the test crashed ({code})"
    told = re.search(r"^(.*: Failure)\n(.*)$", text, flags=re.MULTILINE)
    return RED, " ".join(told.groups()) if told else "failed"


def judge(entry, code, text):
    return judge_python(code, text) if is_python(entry) else judge_gtest(code, text)


def passed(entry, case, text):
    """Whether one case of a run passed."""
    if is_python(entry):
        method = re.escape(case.rpartition(".")[2])
        # The first line of a documentation string stands before the dots.
        begun = re.search(rf"^{method} \(.*\)(\n.*)? \.\.\. (?!skipped)", text, flags=re.MULTILINE)
        return bool(begun) and not re.search(rf"^(FAIL|ERROR): {method} ", text, flags=re.MULTILINE)
    return f"[       OK ] {case} " in text


# ---- The whole ----


def limit_of(entry):
    return entry.get("limit", 120)


def check_unchanged(runs, base, entries, keep):
    """Entry's number -> why its case does not pass as things are. The cases of one file run together."""
    groups = {}
    for number, entry in enumerate(entries):
        groups.setdefault((entry["test"], json.dumps(entry.get("environment", {}), sort_keys=True)), []).append(number)
    problems = {}
    for (test, _), numbers in groups.items():
        cases = sorted({entries[number]["case"] for number in numbers})
        begun = time.monotonic()
        _, text = run_cases(runs, base, entries[numbers[0]], cases, sum(limit_of(entries[number]) for number in numbers))
        bad = [number for number in numbers if not passed(entries[number], entries[number]["case"], text)]
        print(f"unchanged: {test}: {len(cases)} cases in {time.monotonic() - begun:.0f} s"
              f"{', not all pass' if bad else ''}", flush=True)
        if bad and keep:
            save(keep, f"unchanged {test}", text)
        for number in bad:
            problems[number] = "fails or is skipped in the unchanged tree"
    return problems


def save(folder, title, text):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-") + ".log"), "w", encoding="utf-8") as file:
        file.write(text)


def try_one(runs, base, scratch, entry, jobs, keep):
    """(verdict, why, seconds)"""
    begun = time.monotonic()
    layer = None
    try:
        changed = changed_text(entry)
        layer = Layer(tempfile.mkdtemp(prefix="layer-", dir=scratch), base)
        layer.write(entry["file"], changed)
        problem = build(runs, layer, entry["targets"], jobs)
        if problem:
            return BROKEN, problem, time.monotonic() - begun
        code, text = run_cases(runs, layer, entry, [entry["case"]], limit_of(entry))
        verdict, why = judge(entry, code, text)
        if keep:
            save(keep, f"{verdict} {entry['feature']}", text)
        return verdict, why, time.monotonic() - begun
    except Stale as error:
        return BROKEN, str(error), time.monotonic() - begun
    finally:
        if layer:
            layer.remove()


def list_entries(entries):
    bad = 0
    for entry in entries:
        try:
            changed_text(entry)
            state = ""
        except Stale as error:
            state, bad = f"  {error}", bad + 1
        print(f"{entry['from']}: {entry['feature']}: {entry['test']} {entry['case']}{state}")
    print(f"{len(entries)} entries, {bad} stale")
    return 1 if bad else 0


def table(entries, results):
    rows = [("feature", "test", "result", "s")]
    for entry, (verdict, _, seconds) in zip(entries, results):
        rows.append((entry["feature"], f"{os.path.basename(entry['test'])} {entry['case']}", verdict, f"{seconds:.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    count = {verdict: sum(1 for result in results if result[0] == verdict) for verdict in (RED, GREEN, BROKEN)}
    print(f"{len(results)} mutations: {count[RED]} red, {count[GREEN]} green, {count[BROKEN]} broken")
    return 0 if count[RED] == len(results) else 1


def main():
    parser = argparse.ArgumentParser(description="Breaks one feature after the other and shows that its test goes red.")
    parser.add_argument("filter", nargs="*", help="part of a feature's, file's or case's name")
    parser.add_argument("--list", action="store_true", help="show the entries and which of them do not apply any more; run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time (default 1: system tests measure time)")
    parser.add_argument("--build-jobs", type=int, default=os.cpu_count(), help="compilers at a time in each")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the output of every test there")
    options = parser.parse_args()
    entries = read_entries(options.filter)
    if options.list:
        return list_entries(entries)
    if not entries:
        raise SystemExit("no entry has that in its name")
    if os.geteuid():
        raise SystemExit("mount namespaces and containers need root")
    runs = Runs()

    def interrupted(*_):
        runs.stop()
        raise SystemExit(130)
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGINT, interrupted)
    scratch = tempfile.mkdtemp(prefix="pintle-mutations-")
    try:
        base = Layer(os.path.join(scratch, "base"))
        targets = sorted({target for entry in entries for target in entry["targets"]} | set(NODE_TARGETS))
        problem = build(runs, base, targets, options.build_jobs)
        if problem:
            raise SystemExit(f"the unchanged tree {problem}")
        problems = check_unchanged(runs, base, entries, options.keep)

        def one(number):
            entry = entries[number]
            result = (BROKEN, problems[number], 0.0) if number in problems else \
                try_one(runs, base, scratch, entry, options.build_jobs, options.keep)
            print(f"{result[0]}: {entry['feature']}: {result[1]} ({result[2]:.0f} s)", flush=True)
            return result
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(one, range(len(entries))))
        print()
        return table(entries, results)
    finally:
        runs.stop()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
