#include "plugins/node-agent/container_probes.hpp"

#include <algorithm>
#include <array>

#include "cri/api.pintle.hpp"
#include "k8s/core/v1/pod.pb.h"

namespace pintle::agent {

namespace {

constexpr int kTries = 3;
using Kind = ProbeAnswer::Kind;

}  // namespace

std::string_view name_of(ProbeKind kind) {
  return kind == ProbeKind::startup ? "Startup" : kind == ProbeKind::liveness ? "Liveness" : "Readiness";
}

struct ContainerProbes::State : std::enable_shared_from_this<ContainerProbes::State> {
  struct Probing {
    ProbeKind kind{};
    const core::Probe* spec = nullptr;
    std::optional<bool> result;  ///< none: not known yet
    bool last = false;           ///< of the last probe
    int in_a_row = 0;
    bool under_way = false;
    bool ended = false;
    uint64_t call = 0;
    Timer timer;
  };

  State(ProbeSurroundings the_surroundings, ActionTarget the_target, std::shared_ptr<const void> the_keeps,
        std::chrono::system_clock::time_point the_start)
      : surroundings(std::move(the_surroundings)),
        target(std::move(the_target)),
        keeps(std::move(the_keeps)),
        started_at(the_start) {
    const core::Container& spec = *target.spec;
    if (spec.has_startup_probe()) of(ProbeKind::startup).spec = &spec.startup_probe();
    if (spec.has_liveness_probe()) of(ProbeKind::liveness).spec = &spec.liveness_probe();
    if (spec.has_readiness_probe()) of(ProbeKind::readiness).spec = &spec.readiness_probe();
    for (const ProbeKind kind : {ProbeKind::startup, ProbeKind::liveness, ProbeKind::readiness}) of(kind).kind = kind;
  }

  Probing& of(ProbeKind kind) { return probings[static_cast<size_t>(kind)]; }
  bool is_started() { return !of(ProbeKind::startup).spec || of(ProbeKind::startup).result == true; }

  void take_over() {
    of(ProbeKind::startup).result = true;
    of(ProbeKind::startup).ended = true;
    of(ProbeKind::readiness).result = true;
    of(ProbeKind::readiness).last = true;
  }

  void begin() {
    if (of(ProbeKind::startup).spec && !is_started()) {
      schedule(of(ProbeKind::startup), first_time(*of(ProbeKind::startup).spec));
      return;
    }
    for (const ProbeKind kind : {ProbeKind::liveness, ProbeKind::readiness})
      if (of(kind).spec) schedule(of(kind), first_time(*of(kind).spec));
  }

  std::chrono::nanoseconds first_time(const core::Probe& probe) const {
    return started_at + std::chrono::seconds(probe.initial_delay_seconds()) - std::chrono::system_clock::now();
  }

  void schedule(Probing& probing, std::chrono::nanoseconds delay) {
    if (stopped || probing.ended) return;
    const auto run = [weak = weak_from_this(), &probing] {
      const auto self = weak.lock();
      if (!self || self->stopped || probing.ended) return;
      Task<void> task = probe(self, probing);
      self->surroundings.start(std::move(task));
    };
    probing.timer =
        surroundings.host.timer(std::max<std::chrono::nanoseconds>(delay, std::chrono::milliseconds(1)), run);
  }

  static Task<void> probe(std::shared_ptr<State> self, Probing& probing) {
    const core::Probe& spec = *probing.spec;
    const auto begun = std::chrono::steady_clock::now();
    probing.under_way = true;
    ProbeAnswer answer;
    for (int i = 0; i < kTries && answer.kind == Kind::error && !self->stopped && !probing.ended; ++i) {
      Task<ProbeAnswer> probing_once =
          run_probe(self->surroundings.web, self->surroundings.runtime, self->target, spec.handler(),
                    std::chrono::seconds(spec.timeout_seconds()), &probing.call);
      answer = co_await std::move(probing_once);
    }
    probing.under_way = false;
    if (self->stopped || probing.ended) co_return;
    self->take(probing, answer);
    const auto passed = std::chrono::steady_clock::now() - begun;
    self->schedule(probing, std::chrono::seconds(spec.period_seconds()) - passed);
  }

  void take(Probing& probing, const ProbeAnswer& answer) {
    const std::string title(name_of(probing.kind));
    surroundings.count(probing.kind, answer.kind == Kind::error     ? "unknown"
                                     : answer.kind == Kind::failure ? "failed"
                                                                    : "successful");
    if (answer.kind == Kind::error) {
      surroundings.warn("Unhealthy", title + " probe errored: " + answer.message);
      return;
    }
    if (answer.kind == Kind::warning) surroundings.warn("ProbeWarning", title + " probe warning: " + answer.message);
    if (answer.kind == Kind::failure) surroundings.warn("Unhealthy", title + " probe failed: " + answer.message);
    const bool good = answer.kind != Kind::failure;
    probing.in_a_row = probing.last == good ? probing.in_a_row + 1 : 1;
    probing.last = good;
    if (probing.in_a_row < (good ? probing.spec->success_threshold() : probing.spec->failure_threshold())) return;
    if (probing.result == good) return;
    probing.result = good;
    if (probing.kind == ProbeKind::startup && good) begin();
    // Started, or to be ended: either way there is nothing more to ask.
    if (probing.kind == ProbeKind::startup || (probing.kind == ProbeKind::liveness && !good)) probing.ended = true;
    surroundings.changed();
  }

  void stop() {
    stopped = true;
    for (Probing& probing : probings) give_up(probing);
  }
  void give_up(Probing& probing) {
    probing.ended = true;
    probing.timer.cancel();
    if (probing.under_way && probing.call != 0) surroundings.host.cancel(probing.call);
  }

  ProbeSurroundings surroundings;
  ActionTarget target;
  std::shared_ptr<const void> keeps;
  std::chrono::system_clock::time_point started_at;
  std::array<Probing, 3> probings;
  bool stopped = false;
};

ContainerProbes::ContainerProbes(ProbeSurroundings surroundings, ActionTarget target, std::shared_ptr<const void> keeps,
                                 std::chrono::system_clock::time_point started_at, bool was_ready)
    : state_(std::make_shared<State>(std::move(surroundings), std::move(target), std::move(keeps), started_at)) {
  if (was_ready) state_->take_over();
  state_->begin();
}

ContainerProbes::~ContainerProbes() { state_->stop(); }

bool ContainerProbes::has_any(const core::Container& spec) {
  return spec.has_startup_probe() || spec.has_liveness_probe() || spec.has_readiness_probe();
}

const std::string& ContainerProbes::container_id() const { return state_->target.container_id; }

bool ContainerProbes::is_started() const { return state_->is_started(); }

bool ContainerProbes::is_ready() const {
  const State::Probing& readiness = state_->of(ProbeKind::readiness);
  return is_started() && (!readiness.spec || readiness.result == true);
}

std::optional<ProbeKind> ContainerProbes::failed() const {
  for (const ProbeKind kind : {ProbeKind::startup, ProbeKind::liveness})
    if (state_->of(kind).spec && state_->of(kind).result == false) return kind;
  return std::nullopt;
}

void ContainerProbes::end() {
  state_->give_up(state_->of(ProbeKind::startup));
  state_->give_up(state_->of(ProbeKind::liveness));
}

}  // namespace pintle::agent
