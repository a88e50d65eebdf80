"""A strict reader of Prometheus' text format 0.0.4: what it takes, Prometheus takes.

`promtool check metrics` (Debian's package prometheus) is asked as well where it is installed.
"""

import re
import shutil
import subprocess

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (-?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?)|NaN|[-+]Inf)$")


def _labels(text):
    found, at = {}, 0
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, f"broken labels: {text}"
        assert match.group(1) not in found, f"a label stands twice: {text}"
        found[match.group(1)] = match.group(2)
        at = match.end()
    return found


def parse(text):
    """Name -> [(labels, value)]; AssertionError for whatever breaks the format."""
    assert text.endswith("\n"), "the last line does not end"
    samples, seen, closed, family, kind = {}, set(), set(), None, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in closed and name != family, f"{name} has two heads"
            closed.add(family)
            family, kind = name, None
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and kind in ("counter", "gauge", "histogram", "summary", "untyped"), line
        else:
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line}"
            name, labels, value = match.group(1), _labels(match.group(2) or ""), float(match.group(3))
            assert kind, f"a sample before its TYPE: {line}"
            base = re.sub(r"_(bucket|sum|count)$", "", name) if kind == "histogram" else name
            assert base == family, f"{line} stands among {family}"
            identity = (name, tuple(sorted(labels.items())))
            assert identity not in seen, f"twice: {line}"
            seen.add(identity)
            assert kind != "counter" or value >= 0, line
            samples.setdefault(name, []).append((labels, value))
    return samples


def check(text):
    """`parse`, and promtool's own mind of the format where it is installed (its advice on names is nobody's error)."""
    samples = parse(text)
    promtool = shutil.which("promtool")
    if promtool:
        told = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert "error while linting" not in told.stderr and "parsing" not in told.stderr, told.stderr
    return samples


def value(samples, name, **labels):
    """The one sample that has these labels."""
    found = [number for has, number in samples.get(name, []) if all(has.get(key) == wanted for key, wanted in labels.items())]
    assert len(found) == 1, f"{name} {labels}: {samples.get(name)}"
    return found[0]
