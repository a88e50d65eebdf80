#include "plugins/node-agent/url_manifests.hpp"

#include <boost/json.hpp>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace json = boost::json;

namespace {

constexpr const char* kRecord = "url.json";
constexpr std::chrono::seconds kPatience{10};
constexpr size_t kMostBytes = 4 << 20;
constexpr int kNotModified = 304, kOk = 200;

}  // namespace

UrlManifests::UrlManifests(Host& host, WebClient& web, UrlSettings settings, std::string node, std::string state_folder)
    : host_(host),
      web_(web),
      settings_(std::move(settings)),
      node_(std::move(node)),
      state_folder_(std::move(state_folder)) {}

Result<UrlManifests::Answer> UrlManifests::read(const std::string& text) const {
  Answer answer;
  if (is_empty_list(text, settings_.url)) return answer;
  Result<Manifest> manifest = read_manifest(unfold_list(text, settings_.url), {settings_.url, settings_.url, node_});
  if (!manifest) return manifest.status();
  for (WantedPod& pod : manifest->pods) answer.pods.push_back(std::make_shared<const WantedPod>(std::move(pod)));
  answer.secrets = std::move(manifest->secrets);
  return answer;
}

void UrlManifests::take(Answer answer) {
  pods_ = std::move(answer.pods);
  secrets_ = std::move(answer.secrets);
}

Task<void> UrlManifests::load() {
  auto read_record = [path = state_folder_ + "/" + kRecord] { return files::read_file(path); };
  auto reading = host_.blocking(std::move(read_record));
  const Result<std::string> record = co_await std::move(reading);
  if (!record) co_return;
  boost::system::error_code error;
  const json::value value = json::parse(*record, error);
  const auto text = [&](std::string_view key) -> std::string {
    const json::value* found = !error && value.is_object() ? value.get_object().if_contains(key) : nullptr;
    return found && found->is_string() ? std::string(found->get_string()) : std::string();
  };
  if (text("url") != settings_.url || text("text").empty()) co_return;
  Result<Answer> pods = read(text("text"));
  if (!pods) {
    host_.warn("the last good answer is passed over", {{"url", settings_.url}, {"problem", pods.status().message()}});
    co_return;
  }
  text_ = text("text");
  etag_ = text("etag");
  take(std::move(*pods));
}

Task<bool> UrlManifests::poll() {
  bool differs = false;
  Task<Status> asking = ask(differs);
  Status status = co_await std::move(asking);
  if (status.code() == Code::cancelled) co_return false;
  differs = differs || status.message() != status_.message();
  status_ = std::move(status);
  co_return differs;
}

Task<Status> UrlManifests::ask(bool& differs) {
  WebRequest request;
  request.url = settings_.url;
  request.timeout = kPatience;
  request.most_body = kMostBytes;
  request.authority = settings_.authority;
  request.headers = settings_.headers;
  request.headers.emplace_back("User-Agent", "pintle-node-agent");
  if (!etag_.empty() && !text_.empty()) request.headers.emplace_back("If-None-Match", etag_);
  Task<Result<WebAnswer>> fetching = web_.fetch(std::move(request));
  Result<WebAnswer> answer = co_await std::move(fetching);
  if (!answer) co_return answer.status().with_context(settings_.url);
  if (answer->status == kNotModified && !text_.empty()) co_return Status::ok();
  if (answer->status != kOk)
    co_return unavailable(settings_.url + ": HTTP status " + std::to_string(answer->status) +
                          ": 200 with Pod manifests is expected");
  std::string etag = answer->headers["etag"];
  if (answer->body == text_) {
    etag_ = std::move(etag);
    co_return Status::ok();
  }
  Result<Answer> pods = read(answer->body);
  if (!pods) co_return pods.status();
  json::object record;
  record["url"] = settings_.url;
  record["etag"] = etag;
  record["text"] = answer->body;
  auto keep = [path = state_folder_, text = json::serialize(record)]() -> Status {
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return folder.status();
    return files::write_file(folder->get(), kRecord, text, files::Durability::synced);
  };
  auto keeping = host_.blocking(std::move(keep));
  if (Status kept = co_await std::move(keeping); !kept)
    co_return kept.with_context("keep the manifests of " + settings_.url);
  text_ = std::move(answer->body);
  etag_ = std::move(etag);
  take(std::move(*pods));
  differs = true;
  co_return Status::ok();
}

}  // namespace pintle::agent
