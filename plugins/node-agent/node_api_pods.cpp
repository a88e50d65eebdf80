// Pods through the node API.

#include <boost/json.hpp>
#include <charconv>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"
#include "pintle/node.pb.h"
#include "plugins/node-agent/agent.hpp"
#include "plugins/node-agent/node_api.hpp"
#include "sdk/api/json.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr size_t kLargestManifest = 4u << 20;
constexpr std::chrono::seconds kQuickCall{10};
constexpr std::string_view kHead = R"({"kind":"PodList","apiVersion":"v1","metadata":{},"items":[)";

/// An item of a list does not say what it is: the list does.
std::string_view without_kind(std::string_view pod) {
  constexpr std::string_view head = R"({"apiVersion":"v1","kind":"Pod",)";
  return pod.starts_with(head) ? pod.substr(head.size()) : pod.substr(pod.empty() ? 0 : 1);
}

http::Answer list_answer(const std::vector<std::string>& pods) {
  http::Answer answer{.type = "application/json", .body = std::string(kHead), .headers = {}};
  for (const std::string& pod : pods) {
    if (&pod != &pods.front()) answer.body += ',';
    answer.body += '{';
    answer.body += without_kind(pod);
  }
  answer.body += "]}\n";
  return answer;
}

http::Answer failure_of(const Status& status) {
  switch (status.code()) {
    case Code::invalid_argument:
      return status_answer(422, "Invalid", status.message());
    case Code::not_found:
      return status_answer(404, "NotFound", status.message());
    case Code::already_exists:
      return status_answer(409, "AlreadyExists", status.message());
    case Code::failed_precondition:
      return status_answer(409, "Conflict", status.message());
    case Code::unavailable:
      return status_answer(503, "ServiceUnavailable", status.message());
    case Code::resource_exhausted:
      return status_answer(507, "InternalError", status.message());
    default:
      return status_answer(500, "InternalError", status.message());
  }
}

/// The media type without its parameters, in lower case.
std::string media_type(const http::Request& request) {
  const std::string* type = request.header("content-type");
  std::string name = type ? type->substr(0, type->find(';')) : "";
  std::erase(name, ' ');
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return name;
}

template <class Map>
std::string value_of(const Map& map, const char* key) {
  const auto found = map.find(key);
  return found == map.end() ? std::string() : found->second;
}

}  // namespace

http::Answer NodeApi::list_pods() const {
  std::vector<std::string> pods;
  const node::v1::ListPodsResponse listed = agent_.list({});
  for (const node::v1::Pod& pod : listed.pods())
    if (!pod.json().empty()) pods.push_back(pod.json());
  return list_answer(pods);
}

Task<http::Answer> NodeApi::list_running_pods() {
  cri::ListContainersRequest ask;
  ask.mutable_filter()->mutable_state()->set_state(cri::CONTAINER_RUNNING);
  auto asking = agent_.context().runtime->ListContainers(ask, {.timeout = kQuickCall});
  const Result<cri::ListContainersResponse> containers = co_await asking;
  if (!containers) co_return status_answer(500, "InternalError", containers.status().message());
  std::map<std::string, json::object> pods;
  for (const cri::Container& container : containers->containers()) {
    const auto& labels = container.labels();
    const std::string name = value_of(labels, label::kPodName);
    if (name.empty()) continue;
    json::object& pod = pods[container.pod_sandbox_id()];
    if (pod.empty())
      pod = {{"metadata", json::object{{"name", name},
                                       {"namespace", value_of(labels, label::kPodNamespace)},
                                       {"uid", value_of(labels, label::kPodUid)},
                                       {"creationTimestamp", nullptr}}},
             {"spec", json::object{{"containers", json::array()}}},
             {"status", json::object()}};
    pod["spec"]
        .at("containers")
        .as_array()
        .push_back(json::object{{"name", container.metadata().name()},
                                {"image", container.image().image()},
                                {"resources", json::object()}});
  }
  std::vector<std::string> texts;
  for (const auto& [id, pod] : pods) texts.push_back(json::serialize(pod));
  co_return list_answer(texts);
}

Task<http::Answer> NodeApi::post_pods(http::Exchange& exchange) {
  if (!settings_.accepts_manifests)
    co_return status_answer(403, "Forbidden", "this node takes no manifests by POST: nodeApi.acceptManifests is false");
  const std::string type = media_type(exchange.request());
  if (type != "application/json" && type != "application/yaml" && type != "application/x-yaml" && type != "text/yaml")
    co_return status_answer(415, "UnsupportedMediaType",
                            "Content-Type \"" + type + "\": send application/yaml or application/json");
  Task<Result<std::string>> reading = exchange.body(kLargestManifest);
  Result<std::string> body = co_await std::move(reading);
  if (!body)
    co_return body.status().code() == Code::resource_exhausted
        ? status_answer(413, "RequestEntityTooLarge", body.status().message())
        : status_answer(400, "BadRequest", body.status().message());
  if (body->empty()) co_return status_answer(400, "BadRequest", "the body is empty: send a v1 Pod, PodList or List");
  boost::system::error_code broken;
  if (type == "application/json" && (json::parse(*body, broken), broken))
    co_return status_answer(400, "BadRequest", "the body is not JSON: " + broken.message());

  Task<Result<std::vector<Agent::Posted>>> posting = agent_.post(std::move(*body));
  Result<std::vector<Agent::Posted>> posted = co_await std::move(posting);
  if (!posted) co_return failure_of(posted.status());
  bool is_new = false;
  std::vector<std::string> pods;
  for (const Agent::Posted& one : *posted) {
    is_new = is_new || one.change == "created";
    pods.push_back(api::encode_text(*one.pod->pod));
    host_.info("a pod was handed in",
               {{"pod", one.pod->key()},
                {"change", one.change},
                {"by", exchange.request().client ? exchange.request().client->common_name : ""}});
  }
  http::Answer answer = list_answer(pods);
  if (pods.size() == 1) answer.body = pods.front() + "\n";
  answer.status = is_new ? 201 : 200;
  co_return answer;
}

Task<http::Answer> NodeApi::delete_pod(const http::Request& request) {
  if (!settings_.accepts_manifests)
    co_return status_answer(403, "Forbidden", "this node takes no manifests by POST: nodeApi.acceptManifests is false");
  std::optional<int64_t> grace;
  if (const std::string* text = request.parameter("gracePeriodSeconds")) {
    int64_t seconds = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), seconds);
    if (error != std::errc() || end != text->data() + text->size() || seconds < 0 || seconds > 1'000'000)
      co_return status_answer(400, "BadRequest",
                              "gracePeriodSeconds=" + text->substr(0, 40) + ": a number of seconds is expected");
    grace = seconds;
  }
  const std::string key = request.segments[1] + "/" + request.segments[2];
  const std::string by = request.client ? request.client->common_name : "";
  Task<Status> taking = agent_.take_back(key, grace);
  if (Status taken = co_await std::move(taking); !taken) co_return failure_of(taken);
  host_.info("a pod was taken back", {{"pod", key}, {"by", by}});
  co_return status_answer(200, "", "the pod " + key + " is ending");
}

}  // namespace pintle::agent
