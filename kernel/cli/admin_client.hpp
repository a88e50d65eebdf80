#pragma once

/// The admin socket from the client's side: HTTP/1.1 over a Unix socket, by libcurl (kernel/admin/README.md).

#include <boost/json/value.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <pintle/status.hpp>
#include <string>
#include <string_view>

namespace google::protobuf {
class MessageLite;
}

namespace pintle {
struct InterfaceInfo;
}

namespace pintle::cli {

class AdminClient {
 public:
  explicit AdminClient(std::string socket);
  ~AdminClient();

  /// A request and its answer as JSON. An error answer becomes its status; a 500 whose body has no error in it (`PUT /v1/profile`,
  /// some changes failed) is given as it is.
  Result<boost::json::value> json(const std::string& method, const std::string& path, const std::string& body = "",
                                  std::chrono::seconds timeout = std::chrono::seconds(120));

  /// An answer that comes in pieces, until it ends or `take` says false. Waits without limit.
  Status stream(const std::string& path, const std::function<bool(std::string_view)>& take);

  struct CallOptions {
    std::string provider;  // an instance's name or key; needed where several provide the interface
    std::chrono::seconds timeout{30};
  };
  /// One call of a plugin's interface. `method` is the name in the schema.
  Status call(const InterfaceInfo& interface, std::string_view method, const google::protobuf::MessageLite& request,
              google::protobuf::MessageLite& response, const CallOptions& options);
  Status call(const InterfaceInfo& interface, std::string_view method, const google::protobuf::MessageLite& request,
              google::protobuf::MessageLite& response) {
    return call(interface, method, request, response, CallOptions{});
  }

  /// A call of a method that answers with a stream: `take` gets each message encoded. Waits without limit; what ends this
  /// process ends the call.
  Status stream_call(const InterfaceInfo& interface, std::string_view method,
                     const google::protobuf::MessageLite& request, const std::string& provider,
                     const std::function<void(std::string_view)>& take);

  /// The last request failed because nobody answers at the socket.
  bool unreachable() const { return unreachable_; }
  const std::string& socket() const { return socket_; }

 private:
  struct Response {
    long status = 0;
    std::string body;
  };
  struct Request {
    std::string method, path, body, content_type;
    std::chrono::seconds timeout{0};  // 0: none
    std::function<bool(std::string_view)> take;
  };
  Result<Response> perform(const Request& request);
  Status connect_error() const;

  std::string socket_;
  void* curl_;
  bool unreachable_ = false;
};

/// A text as one segment of a path or the value of a query parameter.
std::string percent_encoded(std::string_view text);

}  // namespace pintle::cli
