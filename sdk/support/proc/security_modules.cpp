#include "sdk/support/proc/security_modules.hpp"

#include <fstream>

namespace pintle::proc {

bool has_apparmor() { return std::ifstream("/sys/module/apparmor/parameters/enabled").get() == 'Y'; }

}  // namespace pintle::proc
