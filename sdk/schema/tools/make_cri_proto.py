#!/usr/bin/env python3
"""Writes sdk/schema/cri/api.proto from a table of the facts of CRI v1.

usage: make_cri_proto.py FACTS.tsv > sdk/schema/cri/api.proto

The table has the columns kind, parent, number, label, type, name; kinds are rpc, field, enum, message. Only names, numbers
and types are facts; the text around them is ours. Enum values that are macros of <csignal> get a prefix, which the wire
does not show.
"""
import collections
import sys

services, messages, enums = (collections.OrderedDict() for _ in range(3))
for line in open(sys.argv[1], encoding="utf-8"):
    if line.startswith("#") or not line.strip():
        continue
    kind, parent, number, label, type_, name = (line.rstrip("\n").split("\t") + [""] * 6)[:6]
    if kind == "rpc":
        services.setdefault(parent, []).append((label, type_, name))
    elif kind == "message":
        messages.setdefault(parent, [])
    elif kind == "field":
        messages.setdefault(parent, []).append((int(number), label, type_, name))
    elif kind == "enum":
        enums.setdefault(parent, []).append((int(number), name))
    else:
        sys.exit(f"unknown kind {kind}")

# Messages of one line that the table of facts lacks (CRI v1, api.proto of k8s.io/cri-api v0.34).
for name, fields in {"PodIP": [(1, "", "string", "ip")],
                     "FilesystemIdentifier": [(1, "", "string", "mountpoint")],
                     "ReopenContainerLogResponse": [],
                     "ContainerStatsRequest": [(1, "", "string", "container_id")],
                     "ListContainerStatsRequest": [(1, "", "ContainerStatsFilter", "filter")]}.items():
    messages.setdefault(name, fields)

out = ["// The Container Runtime Interface v1, as Kubernetes v1.34 speaks it. Made by sdk/schema/tools/make_cri_proto.py.",
       "// The gRPC service on the CRI socket and the interface `runtime.v1` between plugins are this one schema.",
       'syntax = "proto3";', "package runtime.v1;", "option optimize_for = LITE_RUNTIME;", 'import "pintle/options.proto";', ""]


def enum_text(name, values, indent):
    short = name.split(".")[-1]
    lines = [f"{indent}enum {short} {{"]
    for number, value in values:
        if short == "Signal":
            value = "SIGNAL_" + value
        lines.append(f"{indent}  {value} = {number};")
    return lines + [indent + "}"]


for service, methods in services.items():
    out += [f"service {service} {{", f'  option (pintle.interface) = {{name: "runtime.v1.{service}", revision: 1}};']
    for number, (label, type_, name) in enumerate(methods, 1):
        request, response = type_.split(" -> ")
        stream = "stream " if label == "server-stream" else ""
        out.append(f"  rpc {name}({request}) returns ({stream}{response}) {{ option (pintle.method) = {number}; }}")
    out += ["}", ""]
for name, values in enums.items():
    if "." not in name:
        out += enum_text(name, values, "") + [""]
for name, fields in messages.items():
    out.append(f"message {name} {{")
    for nested, values in enums.items():
        if nested.startswith(name + "."):
            out += enum_text(nested, values, "  ")
    for number, label, type_, field in fields:
        prefix = "repeated " if label == "repeated" else ""
        if label == "map":
            type_ = type_.replace(",", ", ")
        out.append(f"  {prefix}{type_} {field} = {number};")
    out += ["}", ""]
print("\n".join(out))
