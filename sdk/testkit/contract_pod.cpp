// What runtimes, images and networks promise to an engine that knows nothing of them but the schema: answers about what is not
// there. What they do with real images and namespaces is tested where these are, in tests/end-to-end.

#include "pintle/image.pintle.hpp"
#include "pintle/network.pintle.hpp"
#include "pintle/runtime.pintle.hpp"
#include "sdk/testkit/contract_check.hpp"

namespace pintle::testkit {
namespace {
const std::string absent_id(64, 'e');
}

void check_runtime_backend(InterfaceCheck& check) {
  using namespace pintle::runtime::v1;
  if (!check.is_unimplemented("Describe")) {
    const CallOutcome described = check.call("Describe", DescribeRequest());
    if (const auto answer =
            check.expect_answer<DescribeResponse>(described, "Describe", "a runtime describes itself")) {
      check.expect(!answer->name().empty(), "Describe", "the runtime has a name");
      check.expect(answer->ready() || !answer->message().empty(), "Describe", "a runtime that is not ready says why");
    }
  }
  if (!check.is_unimplemented("ListContainers")) {
    ListContainersRequest request;
    request.set_container_id(absent_id);
    const auto answer = check.expect_answer<ListContainersResponse>(
        check.call("ListContainers", request), "ListContainers", "a container that is not there is an empty list");
    if (answer) check.expect(answer->containers().empty(), "ListContainers", "nothing is invented");
  }
  const auto absent = [&](const char* method, auto request, std::initializer_list<Code> allowed, const char* promise) {
    if (check.is_unimplemented(method)) return;
    request.set_container_id(absent_id);
    check.expect_code(check.call(method, request), method, allowed, promise);
  };
  absent("RemoveContainer", RemoveContainerRequest(), {Code::ok}, "removing what is gone succeeds");
  absent("StartContainer", StartContainerRequest(), {Code::not_found}, "starting what is not there is NOT_FOUND");
  absent("SignalContainer", SignalContainerRequest(), {Code::ok, Code::not_found},
         "signalling what is not there succeeds or is NOT_FOUND");
  absent("UpdateResources", UpdateResourcesRequest(), {Code::not_found}, "updating what is not there is NOT_FOUND");
  absent("ReopenLog", ReopenLogRequest(), {Code::not_found}, "reopening the log of what is not there is NOT_FOUND");
  absent("Stats", StatsRequest(), {Code::ok, Code::not_found}, "what is not there has no statistics");
  if (!check.is_unimplemented("Exec")) {
    ExecRequest request;
    request.set_container_id(absent_id);
    request.add_command("true");
    check.expect_code(check.call("Exec", request), "Exec", {Code::not_found},
                      "running in what is not there is NOT_FOUND");
  }
  if (!check.is_unimplemented("CreateContainer")) {
    CreateContainerRequest request;
    request.set_container_id(absent_id);
    request.mutable_sandbox()->set_id(std::string(64, 'a'));
    request.set_image_id("sha256:" + std::string(64, '0'));
    request.mutable_config()->mutable_metadata()->set_name("absent");
    check.expect_code(check.call("CreateContainer", request), "CreateContainer", {Code::not_found},
                      "a container of an image that is not there is NOT_FOUND");
    ListContainersRequest list;
    list.set_container_id(absent_id);
    if (!check.is_unimplemented("ListContainers")) {
      const auto after = check.expect_answer<ListContainersResponse>(
          check.call("ListContainers", list), "CreateContainer", "the list can be read after a failed creation");
      if (after) check.expect(after->containers().empty(), "CreateContainer", "nothing remains of a failed creation");
    }
  }
  if (!check.is_unimplemented("RemoveSandbox")) {
    RemoveSandboxRequest request;
    request.set_sandbox_id(absent_id);
    check.expect_code(check.call("RemoveSandbox", request), "RemoveSandbox", {Code::ok},
                      "removing what is gone succeeds");
  }
}

void check_image_backend(InterfaceCheck& check) {
  using namespace pintle::image::v1;
  const std::string reference = "contract.invalid/absent:none";
  if (!check.is_unimplemented("Status")) {
    StatusRequest request;
    request.set_reference(reference);
    const auto answer = check.expect_answer<StatusResponse>(check.call("Status", request), "Status",
                                                            "an absent image is an empty answer, not an error");
    if (answer) check.expect(!answer->has_image(), "Status", "no image is invented");
    request.set_reference("Not A Reference!");
    check.expect_code(check.call("Status", request), "Status", {Code::invalid_argument, Code::ok},
                      "what is no reference is INVALID_ARGUMENT or absent");
  }
  if (!check.is_unimplemented("List")) {
    check.expect_answer<ListResponse>(check.call("List", ListRequest()), "List", "images can be listed");
  }
  if (!check.is_unimplemented("Load")) {
    LoadRequest request;
    request.set_path("/nonexistent/archive.tar");
    check.expect_code(check.call("Load", request), "Load", {Code::not_found},
                      "an archive that is not there is NOT_FOUND");
    request.set_path("/dev/null");
    check.expect_code(check.call("Load", request), "Load", {Code::invalid_argument, Code::data_loss},
                      "what is no archive is refused as such");
  }
  if (!check.is_unimplemented("Remove")) {
    RemoveRequest request;
    request.set_reference(reference);
    check.expect_code(check.call("Remove", request), "Remove", {Code::ok, Code::not_found},
                      "removing an absent image succeeds or is NOT_FOUND");
  }
}

void check_pod_network(InterfaceCheck& check) {
  using namespace pintle::network::v1;
  if (!check.is_unimplemented("Describe")) {
    const auto answer = check.expect_answer<DescribeResponse>(check.call("Describe", DescribeRequest()), "Describe",
                                                              "a network describes itself");
    if (answer) {
      check.expect(answer->ready() || !answer->message().empty(), "Describe", "a network that is not ready says why");
    }
  }
  if (!check.is_unimplemented("Detach")) {
    DetachRequest request;
    request.set_sandbox_id(absent_id);
    check.expect_code(check.call("Detach", request), "Detach", {Code::ok}, "detaching what is not attached succeeds");
  }
  if (!check.is_unimplemented("Check")) {
    CheckRequest request;
    request.set_sandbox_id(absent_id);
    check.expect_code(check.call("Check", request), "Check", {Code::not_found, Code::failed_precondition},
                      "what is not attached does not pass the check");
  }
  if (!check.is_unimplemented("Attach")) {
    AttachRequest request;
    request.set_sandbox_id(absent_id);
    request.set_network_namespace("/nonexistent/namespace");
    check.expect_code(check.call("Attach", request), "Attach",
                      {Code::not_found, Code::invalid_argument, Code::failed_precondition},
                      "a namespace that is not there is refused");
    const auto after = check.expect_answer<ListResponse>(check.call("List", ListRequest()), "Attach",
                                                         "the list can be read after a failed attachment");
    if (after) {
      for (const Attachment& attachment : after->attachments()) {
        check.expect(attachment.sandbox_id() != absent_id, "Attach", "nothing remains of a failed attachment");
      }
    }
  }
}

}  // namespace pintle::testkit
