#!/usr/bin/env python3
"""Writes the Kubernetes API types as Protobuf schemas, from tables of facts.

usage: make_k8s_proto.py FACTS_DIR OUTPUT_DIR        (OUTPUT_DIR is sdk/schema)

FACTS_DIR holds k8s-v1.34-messages.tsv (package, message, number, label, type, field, required, default, enum, format,
patchStrategy, patchMergeKey, listType, listMapKeys, mapType, json), k8s-v1.34-enums.tsv and k8s-v1.34-resources.tsv.
k8s-pointers.tsv beside this script says which fields are pointers in Go ("*", absent differs from zero) and which are left
out when zero ("0"): the JSON encoding depends on it.

FILES below says which types exist and where they live. A line names a file, its package and roots; it receives the roots and
all they need that no line above it has. Adding a group of the API is adding lines. Field numbers and wire types are
Kubernetes' own; field names are written in Protobuf's snake_case, with `json_name` where the JSON name does not follow from
it. Messages of proto2, as Kubernetes' are: a scalar knows whether it was set.
"""
import collections
import os
import re
import sys

CORE, META = "k8s.io.api.core.v1", "k8s.io.apimachinery.pkg.apis.meta.v1"
RESOURCE, INTSTR = "k8s.io.apimachinery.pkg.api.resource", "k8s.io.apimachinery.pkg.util.intstr"
RUNTIME = "k8s.io.apimachinery.pkg.runtime"

FILES = [
    ("k8s/apimachinery/resource.proto", RESOURCE, "Quantity", "Amounts of resources."),
    ("k8s/apimachinery/intstr.proto", INTSTR, "IntOrString", "A number or a text."),
    ("k8s/apimachinery/runtime.proto", RUNTIME, "RawExtension", "Objects of a kind that is not known beforehand."),
    ("k8s/meta/v1.proto", META, "Time MicroTime ObjectMeta ListMeta LabelSelector Status",
     "What all objects of the API have."),
    ("k8s/core/v1/reference.proto", CORE,
     "LocalObjectReference ObjectReference TypedLocalObjectReference TypedObjectReference ObjectFieldSelector "
     "ResourceFieldSelector ConfigMapKeySelector SecretKeySelector NodeSelector Toleration ResourceRequirements",
     "References, selectors and small types that the other files share."),
    ("k8s/core/v1/volume.proto", CORE, "Volume VolumeMount VolumeDevice VolumeMountStatus", "What a pod can mount."),
    ("k8s/core/v1/container.proto", CORE, "Container EphemeralContainer ContainerStatus", "One container and how it is."),
    ("k8s/core/v1/pod.proto", CORE, "Pod PodList", "The pod."),
    ("k8s/core/v1/configuration.proto", CORE, "ConfigMap ConfigMapList Secret SecretList", "Configuration of workloads."),
    ("k8s/core/v1/event.proto", CORE, "Event EventList", "What happened to an object."),
]

ENCODINGS = {
    (RESOURCE, "Quantity"): "QUANTITY", (INTSTR, "IntOrString"): "INT_OR_STRING", (META, "Time"): "TIME",
    (META, "MicroTime"): "MICRO_TIME", (META, "Duration"): "DURATION", (META, "FieldsV1"): "RAW",
    (RUNTIME, "RawExtension"): "RAW", (META, "Verbs"): "ITEMS",
}

Field = collections.namedtuple("Field", "number label type name required default enum format patch_strategy patch_merge_key "
                                        "list_type list_map_keys map_type json")


def rows(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                yield line.rstrip("\n").split("\t")


def read_messages(path):
    messages = collections.OrderedDict()
    for row in rows(path):
        row += [""] * (16 - len(row))
        fields = messages.setdefault((row[0], row[1]), [])
        if row[2] != "-":
            fields.append(Field(int(row[2]), *row[3:16]))
    return messages


def read_enums(path):
    values, fields = collections.defaultdict(list), {}
    for row in rows(path):
        if row[0] == "value":
            values[(row[1], row[2])].append(row[3])
        elif row[0] == "field":
            message, field = row[2].split(".")
            fields[(row[1], message, field)] = row[3]
    return {key: values.get((key[0], type_)) or values.get((META, type_)) or [] for key, type_ in fields.items()}


def read_kinds(path):
    """(package, message) -> (apiVersion, kind) for every kind that a resource has, and for its list."""
    kinds = {(META, "Status"): ("v1", "Status")}
    for row in rows(path):
        api_version, kind = row[2].split(" ")
        group, _, version = api_version.rpartition("/")
        package = f"k8s.io.api.{group.split('.')[0] or 'core'}.{version}"
        for name in (kind, kind + "List"):
            kinds[(package, name)] = (api_version, name)
    return kinds


def read_pointers(path):
    marks = {}
    for package, message, fields in rows(path):
        for field in fields.split(" "):
            marks[(package, message, field.lstrip("*0"))] = field[:len(field) - len(field.lstrip("*0"))]
    return marks


def snake(name):
    name = re.sub(r"([A-Z]{2,})s(?=[A-Z]|$)", lambda match: match.group(1).capitalize() + "s", name)  # podIPs -> podIps
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def camel(name):
    """Protobuf's own json_name for a field."""
    return re.sub(r"_([a-z0-9])", lambda match: match.group(1).upper(), name)


def element_type(field):
    return field.type[4:-1].split(",", 1)[1].lstrip(".") if field.type.startswith("map<") else field.type


def resolve(package, type_):
    """The (package, message) a type name means, or None for a scalar."""
    if "." in type_:
        return tuple(type_.rsplit(".", 1))
    return (package, type_) if type_[0].isupper() else None


class Schema:
    def __init__(self, facts):
        table = lambda name: os.path.join(facts, f"k8s-v1.34-{name}.tsv")
        self.messages = read_messages(table("messages"))
        self.enums = read_enums(table("enums"))
        self.kinds = read_kinds(table("resources"))
        self.marks = read_pointers(os.path.join(os.path.dirname(os.path.abspath(__file__)), "k8s-pointers.tsv"))
        self.home = {}  # (package, message) -> file

    def place(self):
        """Assigns every message to its file, in the order of FILES; returns file -> messages, needed ones first."""
        layout = {}
        for file, package, roots, _ in FILES:
            layout[file] = []

            def visit(key, needed_by):
                if key in self.home:
                    return
                if key not in self.messages:
                    sys.exit(f"{file}: {needed_by} needs {key[0]}.{key[1]}, which the table does not have")
                if key[0] != package:
                    sys.exit(f"{file}: {needed_by} needs {key[0]}.{key[1]}: name it as a root of a file above")
                self.home[key] = file
                for field in self.messages[key]:
                    target = resolve(package, element_type(field))
                    if target and target != key:
                        visit(target, key[1])
                layout[file].append(key)

            for root in roots.split():
                visit((package, root), "FILES")
        return layout

    def field_text(self, package, message, field):
        target = resolve(package, element_type(field))
        type_ = element_type(field)
        if target:
            type_ = target[1] if target[0] == package else "." + ".".join(target)
        if field.type.startswith("map<"):
            type_ = f"map<string, {type_}>"
        label = {"optional": "optional ", "repeated": "repeated ", "map": ""}[field.label]

        flags = field.json.split(",")
        json_name = next((flag[5:] for flag in flags if flag.startswith("name=")), field.name)
        mark = self.marks.get((package, message, field.name), "")
        rules = []
        if "always" in flags:
            rules.append("always: true")
        if "*" in mark:
            rules.append("pointer: true")
        if "0" in mark:
            rules.append("omit_zero: true")
        if "inline" in flags:
            rules.append("inline: true")
        if field.required:
            rules.append("required: true")
        if field.default:
            rules.append(f'default_value: "{field.default}"')
        implied = {"int32": "int32", "int64": "int64", "bytes": "byte"}.get(element_type(field))
        if field.format and field.format != implied:
            rules.append(f'format: "{field.format}"')
        values = self.enums.get((package, message, field.name), [])
        if values:
            rules.append("one_of: [" + ", ".join(f'"{value}"' for value in values) + "]")
        for name in ("patch_strategy", "patch_merge_key", "list_type"):
            if getattr(field, name):
                rules.append(f'{name}: "{getattr(field, name)}"')
        if field.list_map_keys:
            rules.append("list_map_keys: [" + ", ".join(f'"{key}"' for key in field.list_map_keys.split(",")) + "]")
        if field.map_type:
            rules.append(f'map_type: "{field.map_type}"')

        name = snake(field.name)
        options = []
        if json_name not in ("-", camel(name)):
            options.append(f'json_name = "{json_name}"')
        if rules:
            options.append("(pintle.api.field_rules) = {" + ", ".join(rules) + "}")
        suffix = " [" + ", ".join(options) + "]" if options else ""
        return f"  {label}{type_} {name} = {field.number}{suffix};"

    def file_text(self, file, package, purpose, keys):
        imports = {"k8s/options.proto"}
        body = []
        for key in keys:
            message = key[1]
            body += ["", f"message {message} {{"]
            if key in ENCODINGS:
                body.append(f"  option (pintle.api.json_encoding) = {ENCODINGS[key]};")
            if key in self.kinds:
                api_version, kind = self.kinds[key]
                body.append(f'  option (pintle.api.object_kind) = {{api_version: "{api_version}", kind: "{kind}"}};')
            for field in self.messages[key]:
                target = resolve(package, element_type(field))
                if target and self.home[target] != file:
                    imports.add(self.home[target])
                body.append(self.field_text(package, message, field))
            body.append("}")
        head = [f"// {purpose}", "// Kubernetes v1.34. Made by sdk/schema/tools/make_k8s_proto.py; do not edit.", 'syntax = "proto2";',
                f"package {package};", ""] + [f'import "{name}";' for name in sorted(imports)]
        return "\n".join(head + body) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    schema = Schema(sys.argv[1])
    layout = schema.place()
    for file, package, _, purpose in FILES:
        path = os.path.join(sys.argv[2], file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as output:
            output.write(schema.file_text(file, package, purpose, layout[file]))
        print(f"{file}: {len(layout[file])} messages")


main()
