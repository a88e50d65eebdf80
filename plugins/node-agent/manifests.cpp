#include "plugins/node-agent/manifests.hpp"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <map>

#include "k8s/core/v1/pod.pb.h"
#include "sdk/api/json.hpp"
#include "sdk/api/pod.hpp"
#include "sdk/support/document/document.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr size_t kLongestFileName = 255;

/// The first 16 bytes of SHA-256 over the parts, each with its length, written as a UUID of version 8 (RFC 9562: custom).
std::string hash_uid(std::initializer_list<std::string_view> parts) {
  std::string input;
  for (const std::string_view part : parts) {
    input += std::to_string(part.size());
    input += ':';
    input += part;
  }
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(input.data()), input.size(), digest.data());
  digest[6] = static_cast<unsigned char>((digest[6] & 0x0f) | 0x80);
  digest[8] = static_cast<unsigned char>((digest[8] & 0x3f) | 0x80);
  constexpr char digits[] = "0123456789abcdef";
  std::string uid;
  for (size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) uid += '-';
    uid += digits[digest[i] >> 4];
    uid += digits[digest[i] & 15];
  }
  return uid;
}

/// What makes a document no Pod, or "".
std::string kind_problem(const json::value& value) {
  if (!value.is_object()) return "must be a Pod (apiVersion: v1, kind: Pod)";
  const auto text = [&](std::string_view key) {
    const json::value* found = value.get_object().if_contains(key);
    return found && found->is_string() ? std::string(found->get_string()) : std::string();
  };
  const std::string kind = text("kind"), version = text("apiVersion");
  if (kind.empty()) return "kind is required: write \"kind: Pod\"";
  if (version.empty()) return "apiVersion is required: write \"apiVersion: v1\"";
  if (kind == "Pod" && version == "v1") return {};
  return version + " " + kind + " cannot be run from a manifest: only v1 Pod can, and v1 Secret beside it";
}

struct ReadPod {
  WantedPod wanted;
  api::Problems problems;
};

ReadPod read_pod(const document::Document& document, const ReadOptions& options) {
  ReadPod read;
  if (std::string problem = kind_problem(document.value()); !problem.empty()) {
    read.problems.push_back({"/kind", std::move(problem)});
    return read;
  }
  auto pod = std::make_shared<core::Pod>();
  read.problems = api::decode(document.value(), *pod);
  if (!read.problems.empty()) return read;
  auto& metadata = *pod->mutable_metadata();
  if (metadata.namespace_().empty()) metadata.set_namespace_("default");
  pod->clear_status();
  read.wanted.uid = hash_uid({options.node, options.path, api::encode_text(*pod)});

  // Before the defaults: what was not written is not refused.
  api::Problems unsupported = find_unsupported(*pod);
  api::set_pod_defaults(*pod);
  read.problems = api::validate_pod(*pod);
  if (!pod->spec().node_name().empty() && pod->spec().node_name() != options.node)
    read.problems.push_back({"/spec/nodeName", "names another node, \"" + pod->spec().node_name() + "\": this is \"" +
                                                   options.node + "\""});
  read.problems.insert(read.problems.end(), unsupported.begin(), unsupported.end());
  // Logs lie in one folder "NAMESPACE_NAME_UID".
  if (metadata.namespace_().size() + metadata.name().size() + read.wanted.uid.size() + 2 > kLongestFileName)
    read.problems.push_back(
        {"/metadata/name", "is too long for the name of a log folder: shorten it or the namespace"});

  metadata.set_uid(read.wanted.uid);
  pod->mutable_spec()->set_node_name(options.node);
  auto& annotations = *metadata.mutable_annotations();
  annotations["kubernetes.io/config.source"] = options.path.starts_with('/') ? "file" : "http";
  annotations["kubernetes.io/config.hash"] = read.wanted.uid;
  read.wanted.namespace_name = metadata.namespace_();
  read.wanted.name = metadata.name();
  read.wanted.path = options.path;
  read.wanted.yaml = document::write_yaml(document.value());
  read.wanted.pod = std::move(pod);
  return read;
}

}  // namespace

Result<Manifest> read_manifest(std::string_view text, const ReadOptions& options) {
  Result<std::vector<document::Document>> documents = document::read_documents(text, options.origin);
  if (!documents) return documents.status();
  Manifest manifest;
  std::map<std::string, std::string> places;
  std::string problems;
  const auto complain = [&](const std::string& text_of_problem) {
    if (!problems.empty()) problems += "; ";
    problems += text_of_problem;
  };
  for (const document::Document& document : *documents) {
    if (is_secret(document)) {
      api::Problems wrong;
      std::shared_ptr<const PullSecret> secret = read_secret(document, options.path, wrong);
      const auto where = [&](const api::Problem& problem) { return document.where_key(problem.pointer).text(); };
      const std::string place = document.where("/metadata/name").text();
      if (!wrong.empty())
        complain(api::to_status(wrong, where).message());
      else if (!places.emplace("secret " + secret->key(), place).second)
        complain(place + ": the secret " + secret->key() + " stands twice");
      else
        manifest.secrets.push_back(std::move(secret));
      continue;
    }
    ReadPod read = read_pod(document, options);
    if (!read.problems.empty()) {
      const auto where = [&](const api::Problem& problem) { return document.where_key(problem.pointer).text(); };
      complain(api::to_status(read.problems, where).message());
      continue;
    }
    const std::string place = document.where("/metadata/name").text();
    const auto [first, is_new] = places.emplace(read.wanted.key(), place);
    if (!is_new)
      complain(place + ": the pod " + read.wanted.key() + " stands twice, the first at " + first->second);
    else
      manifest.pods.push_back(std::move(read.wanted));
  }
  if (!problems.empty()) return invalid_argument(std::move(problems));
  if (documents->empty())
    return invalid_argument(options.origin + ": no manifest in it: write a v1 Pod, or remove the file");
  return manifest;
}

std::string unfold_list(const std::string& text, const std::string& origin) {
  Result<std::vector<document::Document>> documents = document::read_documents(text, origin);
  if (!documents || documents->size() != 1 || !documents->front().value().is_object()) return text;
  const json::object& object = documents->front().value().get_object();
  const json::value* kind = object.if_contains("kind");
  const json::value* items = object.if_contains("items");
  if (!kind || !kind->is_string() || (kind->get_string() != "PodList" && kind->get_string() != "List")) return text;
  if (!items || !items->is_array()) return text;
  std::string unfolded;
  for (const json::value& item : items->get_array()) {
    json::value pod = item;
    // Items of a list may leave out what the list already says.
    if (pod.is_object() && kind->get_string() == "PodList") {
      if (!pod.get_object().contains("kind")) pod.get_object()["kind"] = "Pod";
      if (!pod.get_object().contains("apiVersion")) pod.get_object()["apiVersion"] = "v1";
    }
    unfolded += "---\n" + json::serialize(pod) + "\n";
  }
  return unfolded;
}

bool is_empty_list(const std::string& text, const std::string& origin) {
  return !text.empty() && unfold_list(text, origin).empty();
}

std::string to_record(const WantedPod& pod) {
  json::object record;
  record["version"] = 1;
  record["uid"] = pod.uid;
  record["path"] = pod.path;
  record["createdAt"] = pod.created_at;
  record["yaml"] = pod.yaml;
  record["pod"] = api::encode(*pod.pod);
  return json::serialize(record);
}

Result<WantedPod> from_record(std::string_view record) {
  boost::system::error_code error;
  const json::value value = json::parse(record, error);
  const auto unreadable = [] { return data_loss("the record of a pod is unreadable"); };
  if (error || !value.is_object()) return unreadable();
  const json::object& object = value.get_object();
  const auto text = [&](std::string_view key) -> std::string {
    const json::value* found = object.if_contains(key);
    return found && found->is_string() ? std::string(found->get_string()) : std::string();
  };
  WantedPod pod;
  auto message = std::make_shared<core::Pod>();
  const json::value* encoded = object.if_contains("pod");
  const json::value* created = object.if_contains("createdAt");
  if (!encoded || !api::decode(*encoded, *message, {.strict = false}).empty()) return unreadable();
  pod.uid = text("uid");
  pod.path = text("path");
  pod.yaml = text("yaml");
  pod.created_at = created && created->is_int64() ? created->get_int64() : 0;
  pod.namespace_name = message->metadata().namespace_();
  pod.name = message->metadata().name();
  pod.pod = std::move(message);
  if (pod.uid.empty() || pod.name.empty() || pod.namespace_name.empty()) return unreadable();
  return pod;
}

bool is_uid(std::string_view uid) {
  return !uid.empty() && uid.size() <= 64 && std::all_of(uid.begin(), uid.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '-';
  });
}

}  // namespace pintle::agent
