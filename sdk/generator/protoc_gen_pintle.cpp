// protoc-gen-pintle: for each service of a schema, the skeleton to derive from and the stub to call.
//
//   protoc --plugin=protoc-gen-pintle --pintle_out=DIR -I sdk/schema pintle/network.proto
//
// writes DIR/pintle/network.pintle.hpp. What the generated classes are made of is `pintle/call.hpp`.

#include <google/protobuf/compiler/code_generator.h>
#include <google/protobuf/compiler/plugin.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/printer.h>
#include <google/protobuf/io/zero_copy_stream.h>

#include <map>
#include <memory>
#include <set>
#include <string>

#include "pintle/options.pb.h"

namespace {

using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::io::Printer;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string base_name(const FileDescriptor* file) {
  return file->name().substr(0, file->name().size() - std::string(".proto").size());
}

std::string cpp_name(const google::protobuf::Descriptor* message) {
  return "::" + replaced(message->full_name(), ".", "::");
}

class Generator : public google::protobuf::compiler::CodeGenerator {
 public:
  uint64_t GetSupportedFeatures() const override { return FEATURE_PROTO3_OPTIONAL; }

  bool Generate(const FileDescriptor* file, const std::string&, google::protobuf::compiler::GeneratorContext* context,
                std::string* error) const override {
    if (file->service_count() == 0) return true;
    const std::string base = base_name(file);
    std::unique_ptr<google::protobuf::io::ZeroCopyOutputStream> stream(context->Open(base + ".pintle.hpp"));
    Printer printer(stream.get(), '$');
    printer.Print(
        "// Generated from $file$ by protoc-gen-pintle.\n"
        "#pragma once\n\n"
        "#include <pintle/call.hpp>\n\n"
        "#include \"$base$.pb.h\"\n\n"
        "namespace $namespace$ {\n",
        "file", file->name(), "base", base, "namespace", replaced(file->package(), ".", "::"));
    for (int i = 0; i < file->service_count(); ++i) {
      if (!check(file->service(i), error)) return false;
      interface(printer, file->service(i));
      skeleton(printer, file->service(i));
      stub(printer, file->service(i));
    }
    printer.Print("\n}  // namespace $namespace$\n", "namespace", replaced(file->package(), ".", "::"));
    return true;
  }

 private:
  static bool check(const ServiceDescriptor* service, std::string* error) {
    // Tools derive the C++ names of an interface from its own, so it is spelled as the service is.
    if (service->options().GetExtension(pintle::interface).name() != service->full_name()) {
      *error =
          service->full_name() + ": a service needs the option (pintle.interface) with its full name and a revision";
      return false;
    }
    std::set<uint32_t> numbers;
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor* method = service->method(i);
      const uint32_t number = method->options().GetExtension(pintle::method);
      if (number == 0 || !numbers.insert(number).second) {
        *error = method->full_name() + ": a method needs the option (pintle.method) with a number of its own";
        return false;
      }
      if (method->client_streaming()) {
        *error = method->full_name() + ": a stream from the caller is not supported by the C++ layer";
        return false;
      }
    }
    return true;
  }

  static std::map<std::string, std::string> variables(const MethodDescriptor* method) {
    return {{"name", method->name()},
            {"number", std::to_string(method->options().GetExtension(pintle::method))},
            {"since", std::to_string(std::max(1u, method->options().GetExtension(pintle::since)))},
            {"streams", method->server_streaming() ? "true" : "false"},
            {"request", cpp_name(method->input_type())},
            {"response", cpp_name(method->output_type())},
            {"request_name", method->input_type()->full_name()},
            {"response_name", method->output_type()->full_name()},
            {"service", method->service()->name()}};
  }

  static void interface(Printer& printer, const ServiceDescriptor* service) {
    const pintle::Interface& options = service->options().GetExtension(pintle::interface);
    printer.Print("\nstruct $service$Interface {\n", "service", service->name());
    printer.Print("  static constexpr ::pintle::MethodInfo methods[] = {\n");
    for (int i = 0; i < service->method_count(); ++i) {
      printer.Print(variables(service->method(i)),
                    "      {$number$, \"$name$\", $streams$, $since$, \"$request_name$\", \"$response_name$\"},\n");
    }
    printer.Print("  };\n");
    printer.Print("  static constexpr ::std::array<::std::string_view, $count$> features = {", "count",
                  std::to_string(options.features_size()));
    for (const std::string& feature : options.features()) printer.Print("\"$feature$\", ", "feature", feature);
    printer.Print("};\n  enum Feature : unsigned {\n");
    for (int i = 0; i < options.features_size(); ++i) {
      printer.Print("    feature_$name$ = $bit$,\n", "name", replaced(options.features(i), "-", "_"), "bit",
                    std::to_string(i));
    }
    printer.Print(
        "  };\n"
        "  static constexpr ::pintle::InterfaceInfo info{\"$name$\", $revision$, methods, features, \"$schema$\"};\n"
        "};\n",
        "name", options.name(), "revision", std::to_string(options.revision()), "schema", base_name(service->file()));
  }

  static void skeleton(Printer& printer, const ServiceDescriptor* service) {
    printer.Print(
        "\n/// Implements $interface$: override what you can do, the rest answers UNIMPLEMENTED.\n"
        "class $service$ : public ::pintle::Implementation {\n"
        " public:\n"
        "  using Interface = $service$Interface;\n"
        "  const ::pintle::InterfaceInfo& interface_info() const override { return Interface::info; }\n\n",
        "service", service->name(), "interface", service->options().GetExtension(pintle::interface).name());
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor* method = service->method(i);
      if (method->server_streaming()) {
        printer.Print(
            variables(method),
            "  virtual ::pintle::Task<::pintle::Status> $name$(::pintle::Call& call, const $request$& request,\n"
            "                                                  ::pintle::StreamWriter<$response$>& writer) {\n"
            "    (void)call, (void)request, (void)writer;\n"
            "    return ::pintle::detail::unimplemented_stream(Interface::info.name, \"$name$\");\n"
            "  }\n");
      } else {
        printer.Print(
            variables(method),
            "  virtual ::pintle::Task<::pintle::Result<$response$>> $name$(::pintle::Call& call,\n"
            "                                                              const $request$& request) {\n"
            "    (void)call, (void)request;\n"
            "    return ::pintle::detail::unimplemented_method<$response$>(Interface::info.name, \"$name$\");\n"
            "  }\n");
      }
    }
    printer.Print(
        "\n protected:\n"
        "  bool dispatch(::std::unique_ptr<::pintle::Call>& call, uint32_t method, ::std::span<const uint8_t> header) "
        "override {\n"
        "    switch (method) {\n");
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor* method = service->method(i);
      printer.Print(variables(method), method->server_streaming()
                                           ? "      case $number$: serve_stream<$request$, $response$>(call, header, "
                                             "&$service$::$name$); return true;\n"
                                           : "      case $number$: serve<$request$, $response$>(call, header, "
                                             "&$service$::$name$); return true;\n");
    }
    printer.Print("      default: return false;\n    }\n  }\n};\n");
  }

  static void stub(Printer& printer, const ServiceDescriptor* service) {
    printer.Print(
        "\n/// Calls $interface$. A request is borrowed until the call is awaited.\n"
        "class $service$Stub : public ::pintle::Stub {\n"
        " public:\n"
        "  using Interface = $service$Interface;\n"
        "  using ::pintle::Stub::Stub;\n\n",
        "service", service->name(), "interface", service->options().GetExtension(pintle::interface).name());
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor* method = service->method(i);
      if (method->server_streaming()) {
        printer.Print(
            variables(method),
            "  ::pintle::StreamCall<$response$> $name$(const $request$& request,\n"
            "                                          ::pintle::StreamCall<$response$>::OnMessage on_message,\n"
            "                                          ::pintle::CallOptions options = {}) const {\n"
            "    return {host_, binding_.id, $number$, request, ::std::move(on_message), options};\n"
            "  }\n");
      } else {
        printer.Print(variables(method),
                      "  ::pintle::UnaryCall<$response$> $name$(const $request$& request, ::pintle::CallOptions "
                      "options = {}) const {\n"
                      "    return {host_, binding_.id, $number$, request, options};\n"
                      "  }\n");
      }
    }
    printer.Print("};\n");
  }
};

}  // namespace

int main(int argc, char* argv[]) {
  Generator generator;
  return google::protobuf::compiler::PluginMain(argc, argv, &generator);
}
