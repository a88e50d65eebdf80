#include "kernel/cli/admin_client.hpp"

#include <curl/curl.h>
#include <google/protobuf/message_lite.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <pintle/call.hpp>
#include <stdexcept>

namespace pintle::cli {

namespace {

struct Sink {
  std::string* body;
  const std::function<bool(std::string_view)>* take;
  CURL* curl;
  bool stopped = false;
};

size_t receive(char* data, size_t size, size_t count, void* context) {
  auto& sink = *static_cast<Sink*>(context);
  long status = 0;
  curl_easy_getinfo(sink.curl, CURLINFO_RESPONSE_CODE, &status);
  const std::string_view piece(data, size * count);
  if (*sink.take && status < 400) {
    sink.stopped = !(*sink.take)(piece);
    return sink.stopped ? 0 : piece.size();
  }
  constexpr size_t most = 256u << 20;
  if (sink.body->size() + piece.size() > most) return 0;
  sink.body->append(piece);
  return piece.size();
}

Code code_of_name(std::string_view name) {
  for (uint32_t number = 1; number <= static_cast<uint32_t>(Code::unauthenticated); ++number) {
    if (code_name(static_cast<Code>(number)) == name) return static_cast<Code>(number);
  }
  return Code::unknown;
}

// The error that an answer tells, or what its HTTP status says if it tells none.
Status error_of(long status, const std::string& body) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(body, error);
  const boost::json::object* object = error ? nullptr : value.if_object();
  const boost::json::value* code = object == nullptr ? nullptr : object->if_contains("code");
  const boost::json::value* message = object == nullptr ? nullptr : object->if_contains("message");
  if (code != nullptr && code->is_string() && message != nullptr && message->is_string()) {
    return {code_of_name({code->get_string().data(), code->get_string().size()}),
            std::string(message->get_string().data(), message->get_string().size())};
  }
  return {status == 404 ? Code::not_found : Code::internal, "pintled answered with HTTP " + std::to_string(status)};
}

uint32_t number_of(const InterfaceInfo& interface, std::string_view method) {
  for (const MethodInfo& known : interface.methods) {
    if (known.name == method) return known.number;
  }
  return 0;
}

constexpr size_t kFrameHead = 5;  // of a stream: its kind and its length

// The last frame of a stream: an error as elsewhere, with the code OK where it is none.
Status end_of_stream(const std::string& body) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(body, error);
  if (!error && value.is_object()) {
    const boost::json::value* code = value.get_object().if_contains("code");
    if (code != nullptr && code->is_string() && code->get_string() == "OK") return Status::ok();
  }
  return error_of(500, body);
}

}  // namespace

std::string percent_encoded(std::string_view text) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string encoded;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.' || c == '~') {
      encoded.push_back(c);
    } else {
      encoded += {'%', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return encoded;
}

AdminClient::AdminClient(std::string socket) : socket_(std::move(socket)), curl_(curl_easy_init()) {
  if (curl_ == nullptr) throw std::runtime_error("libcurl cannot start");
}

AdminClient::~AdminClient() { curl_easy_cleanup(curl_); }

Status AdminClient::connect_error() const {
  struct stat facts {};
  if (stat(socket_.c_str(), &facts) != 0) {
    return unavailable("cannot reach pintled at " + socket_ + ": " +
                       (errno == EACCES ? "permission denied" : "it is not running"));
  }
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_.c_str(), sizeof address.sun_path - 1);
  const bool refused = connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0;
  const int error = errno;
  close(descriptor);
  if (refused && error == EACCES) return unavailable("cannot reach pintled at " + socket_ + ": permission denied");
  return unavailable("cannot reach pintled at " + socket_ + ": it is not running (the socket is left over)");
}

Result<AdminClient::Response> AdminClient::perform(const Request& request) {
  Response response;
  Sink sink{&response.body, &request.take, curl_};
  curl_easy_reset(curl_);
  curl_easy_setopt(curl_, CURLOPT_UNIX_SOCKET_PATH, socket_.c_str());
  curl_easy_setopt(curl_, CURLOPT_URL, ("http://pintle" + request.path).c_str());
  curl_easy_setopt(curl_, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl_, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl_, CURLOPT_TIMEOUT, static_cast<long>(request.timeout.count()));
  curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, receive);
  curl_easy_setopt(curl_, CURLOPT_WRITEDATA, &sink);
  curl_slist* headers = curl_slist_append(nullptr, "Expect:");
  if (request.method != "GET") {
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDS, request.body.data());
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    headers = curl_slist_append(headers, ("Content-Type: " + request.content_type).c_str());
  }
  curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, headers);
  const CURLcode outcome = curl_easy_perform(curl_);
  curl_slist_free_all(headers);
  curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &response.status);

  unreachable_ = outcome == CURLE_COULDNT_CONNECT;
  if (unreachable_) return connect_error();
  if (outcome == CURLE_OPERATION_TIMEDOUT) {
    return deadline_exceeded("pintled did not answer within " + std::to_string(request.timeout.count()) + " s");
  }
  if (outcome != CURLE_OK && !sink.stopped) {
    return unavailable(std::string("the connection to pintled broke: ") + curl_easy_strerror(outcome));
  }
  return response;
}

Result<boost::json::value> AdminClient::json(const std::string& method, const std::string& path,
                                             const std::string& body, std::chrono::seconds timeout) {
  Result<Response> response = perform({method, path, body, "application/json", timeout, {}});
  if (!response) return response.status();
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(response->body, error);
  const bool is_error =
      value.is_object() && value.get_object().contains("code") && value.get_object().contains("message");
  if (response->status >= 400 && (error || is_error || response->status != 500))
    return error_of(response->status, response->body);
  if (error) return internal_error("pintled's answer to " + path + " is no JSON: " + error.message());
  return value;
}

Status AdminClient::stream(const std::string& path, const std::function<bool(std::string_view)>& take) {
  Result<Response> response = perform({"GET", path, "", "", std::chrono::seconds(0), take});
  if (!response) return response.status();
  return response->status >= 400 ? error_of(response->status, response->body) : Status::ok();
}

Status AdminClient::call(const InterfaceInfo& interface, std::string_view method,
                         const google::protobuf::MessageLite& request, google::protobuf::MessageLite& response,
                         const CallOptions& options) {
  std::string path = "/v1/interfaces/" + std::string(interface.name) + "/" +
                     std::to_string(number_of(interface, method)) +
                     "?timeout=" + std::to_string(options.timeout.count());
  if (!options.provider.empty()) path += "&provider=" + percent_encoded(options.provider);
  // The daemon ends the call at its deadline; the client waits a little longer for that answer.
  Result<Response> answer = perform({"POST",
                                     path,
                                     request.SerializeAsString(),
                                     "application/x-protobuf",
                                     options.timeout + std::chrono::seconds(5),
                                     {}});
  if (!answer) return answer.status();
  if (answer->status >= 400) return error_of(answer->status, answer->body);
  if (!response.ParseFromString(answer->body)) {
    return internal_error("the answer of " + std::string(interface.name) + "." + std::string(method) + " is damaged");
  }
  return Status::ok();
}

Status AdminClient::stream_call(const InterfaceInfo& interface, std::string_view method,
                                const google::protobuf::MessageLite& request, const std::string& provider,
                                const std::function<void(std::string_view)>& take) {
  std::string path = "/v1/interfaces/" + std::string(interface.name) + "/" +
                     std::to_string(number_of(interface, method)) + "?stream=1";
  if (!provider.empty()) path += "&provider=" + percent_encoded(provider);
  std::string buffer;
  std::optional<Status> end;
  const auto take_frames = [&](std::string_view piece) {
    buffer += piece;
    size_t begin = 0;
    while (buffer.size() - begin >= kFrameHead) {
      uint32_t length = 0;
      for (size_t i = 1; i < kFrameHead; ++i) length = length << 8 | static_cast<unsigned char>(buffer[begin + i]);
      if (buffer.size() - begin - kFrameHead < length) break;
      const std::string_view payload(buffer.data() + begin + kFrameHead, length);
      if (buffer[begin] == 0) take(payload);
      if (buffer[begin] == 1) end = end_of_stream(std::string(payload));
      begin += kFrameHead + length;
    }
    buffer.erase(0, begin);
    return !end;
  };
  Result<Response> answer = perform(
      {"POST", path, request.SerializeAsString(), "application/x-protobuf", std::chrono::seconds(0), take_frames});
  if (end) return *end;
  if (!answer) return answer.status();
  if (answer->status >= 400) return error_of(answer->status, answer->body);
  return unavailable("the connection to pintled broke before the end of " + std::string(method));
}

}  // namespace pintle::cli
