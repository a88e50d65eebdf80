#include "kernel/isolation/child.hpp"

namespace pintle::kernel {

Result<std::shared_ptr<ChildProcess>> ChildProcess::start(Node&, Instance&, ChildOptions) {
  return unimplemented("isolated plugins are not built in yet; set isolation: in-process");
}

}  // namespace pintle::kernel
