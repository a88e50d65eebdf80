#pragma once

/// Several tasks of one lane side by side.
///
///     std::vector<Task<Status>> stopping = ...;
///     Task<Status> all_stopping = all(std::move(stopping));
///     Status status = co_await std::move(all_stopping);

#include <coroutine>
#include <exception>
#include <memory>
#include <pintle/failures.hpp>
#include <pintle/status.hpp>
#include <pintle/task.hpp>
#include <utility>
#include <vector>

namespace pintle {
namespace detail {

struct Joint {
  size_t running = 0;
  Failures failures;
  std::coroutine_handle<> waiting;
};

inline Detached run_part(Task<Status> task, std::shared_ptr<Joint> joint) {
  Status status;
  try {
    status = co_await std::move(task);
  } catch (const std::exception& error) {
    status = internal_error(error.what());
  }
  joint->failures.note(status);
  if (--joint->running == 0 && joint->waiting) joint->waiting.resume();
}

}  // namespace detail

/// Begins all tasks in their order and ends with the last of them, none of them cut short by another's failure; the status collects what
/// failed: the code of the first to fail, all messages.
inline Task<Status> all(std::vector<Task<Status>> tasks) {
  auto joint = std::make_shared<detail::Joint>();
  joint->running = tasks.size();
  for (Task<Status>& task : tasks) detail::run_part(std::move(task), joint);
  struct Awaiter {
    detail::Joint& joint;
    bool await_ready() const { return joint.running == 0; }
    void await_suspend(std::coroutine_handle<> handle) { joint.waiting = handle; }
    void await_resume() const {}
  };
  Awaiter awaiter{*joint};
  co_await awaiter;
  co_return joint->failures.status();
}

}  // namespace pintle
