#pragma once

/// What the node keeps on disk of each generation, so that the next daemon knows what the last one ran.

#include <boost/json.hpp>
#include <cstdint>
#include <pintle/status.hpp>
#include <string>
#include <vector>

#include "kernel/profile/plan.hpp"

namespace pintle::kernel {

boost::json::object to_json(const PlannedInstance& plan);
/// Members that are missing or of a wrong type keep their defaults.
PlannedInstance planned_instance(const boost::json::object& object);

struct Record {
  uint64_t generation = 0;
  bool retiring = false;
  bool sound = true;  // false: the file cannot be read; only the generation is known
  PlannedInstance plan;
};

/// `<instances>/<name>/<generation>.json` of all instances, by name and generation. Damaged files are reported as records
/// that are not sound.
Result<std::vector<Record>> read_records(const std::string& instances);
/// Synced: acknowledged means durable.
Status write_record(const std::string& instances, const Record& record);
/// The record, its lock file and the plugin's folder; what is large goes to the trash first.
Status remove_record(const std::string& instances, const std::string& name, uint64_t generation);

}  // namespace pintle::kernel
